"""Is this the head of a request that everybody reads alike? Pure checks, no I/O.

httptools has refused most broken framing before; what it lets pass and other
parsers read differently is refused here, in every mode: the sender and the
servers before and behind us must agree on where a request ends.
"""

import re
from dataclasses import dataclass
from email.utils import formatdate

from ollama_wrap.call import Header

#: Bytes of a whole head, of one field, of the target; number of fields. httptools kept 61 MiB of
#: one unfinished head; nginx allows 32 KiB, Go 1 MiB.
MAX_HEAD = 64 * 1024
MAX_FIELD = 16 * 1024
MAX_TARGET = 8 * 1024
MAX_FIELDS = 100

PHRASES = {
    400: b"Bad Request",
    408: b"Request Timeout",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
    505: b"HTTP Version Not Supported",
}

#: the bytes that Go's server takes in a Host (httpguts.ValidHostHeader)
_HOST = re.compile(rb"[0-9A-Za-z!$%&'()*+,\-.:;=\[\]_~]*\Z")
_NOT_IN_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is refused before anybody reads it; without `text` where stock says none."""

    status: int
    text: str = ""

    @property
    def reply(self) -> bytes:
        """The whole reply, in the form of Go's server: framed by the close."""
        line = b"%d %b" % (self.status, PHRASES[self.status])
        if self.status == 417:
            # stock says this one in its handlers' form
            date = formatdate(usegmt=True).encode()
            return b"HTTP/1.1 %b\r\nConnection: close\r\nDate: %b\r\nContent-Length: 0\r\n\r\n" % (
                line,
                date,
            )
        if self.text:
            line += b": " + self.text.encode()
        again = b"Retry-After: 1\r\n" if self.status == 503 else b""
        return (
            b"HTTP/1.1 %b\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"%bConnection: close\r\n\r\n%b" % (line, again, line)
        )


def unfinished(data: bytes | bytearray) -> Fault | None:
    """What is wrong already with the first bytes of a head that has not ended."""
    if len(data) > MAX_HEAD:
        return Fault(431, "request head too large")
    first = data[0]
    if not 0x41 <= first <= 0x5A or _NOT_IN_HEAD.search(data):
        return Fault(400)
    if len(data) > MAX_TARGET + 32 and data.find(b"\r\n") < 0:
        return Fault(414, "request target too long")
    return None


def check(method: bytes, target: bytes, version: str, headers: list[Header]) -> Fault | None:
    """The fault of a complete head, or None.

    `target` and `headers` as they came; httptools has vouched for their characters.
    """
    if version not in {"1.1", "1.0"}:
        return Fault(505, "unsupported HTTP version")
    if len(target) > MAX_TARGET:
        return Fault(414, "request target too long")
    if len(headers) > MAX_FIELDS:
        return Fault(431, "too many header fields")
    if method == b"CONNECT" or not (target.startswith(b"/") or target == b"*"):
        return Fault(400, "request target must be a path")
    return _fields(version, headers)


def _fields(version: str, headers: list[Header]) -> Fault | None:
    hosts = codings = 0
    for name, value in headers:
        if len(name) + len(value) > MAX_FIELD:
            return Fault(431, "header field too large")
        size = len(name)
        if size == 4 and name.lower() == b"host":
            hosts += 1
            if not _HOST.match(value):
                return Fault(400, "malformed Host header")
        elif size == 6 and name.lower() == b"expect" and value.lower() != b"100-continue":
            return Fault(417)
        elif size == 17 and name.lower() == b"transfer-encoding":
            codings += 1
            if version == "1.0" or codings > 1 or value.lower() != b"chunked":
                return Fault(400, "unsupported transfer encoding")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return Fault(400, "" if hosts else "missing required Host header")
    return None


def own_path(target: bytes, host: bytes) -> bytes | None:
    """The path of an absolute-form target whose authority is our Host; None: somebody else's."""
    scheme, _, rest = target.partition(b"://")
    authority, slash, path = rest.partition(b"/")
    if scheme.lower() != b"http" or not host or authority.lower() != host.lower():
        return None
    return slash + path or b"/"
