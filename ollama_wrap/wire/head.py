"""Is this the head of a request that everybody reads alike? Pure checks, no I/O.

httptools has refused most broken framing before; what it lets pass and other
parsers read differently is refused here, in every mode: the sender and the
servers before and behind us must agree on where a request ends.
"""

import re
from dataclasses import dataclass

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

_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.%]+\]|[^\x00-\x20\"#/<>?@\\\[\]^`{|}\x7f:]*)(?::[0-9]*)?\Z")
_NOT_IN_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is refused before anybody reads it."""

    status: int
    text: str


def unfinished(data: bytes | bytearray) -> Fault | None:
    """What is wrong already with the first bytes of a head that has not ended."""
    if len(data) > MAX_HEAD:
        return Fault(431, "request head too large")
    first = data[0]
    if not (0x41 <= first <= 0x5A or first in b"\r\n") or _NOT_IN_HEAD.search(data):
        return Fault(400, "not an HTTP request")
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
            return Fault(417, "expectation failed")
        elif size == 17 and name.lower() == b"transfer-encoding":
            codings += 1
            if version == "1.0" or codings > 1 or value.lower() != b"chunked":
                return Fault(400, "unsupported transfer encoding")
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return Fault(400, "missing required Host header" if not hosts else "too many Host headers")
    return None


def own_path(target: bytes, host: bytes) -> bytes | None:
    """The path of an absolute-form target whose authority is our Host; None: somebody else's."""
    scheme, _, rest = target.partition(b"://")
    authority, slash, path = rest.partition(b"/")
    if scheme.lower() != b"http" or not host or authority.lower() != host.lower():
        return None
    return slash + path or b"/"
