"""The head of a request: read by httptools, and refused where others would read it otherwise.

Pure, no I/O. httptools refuses most broken framing; what it lets pass and
other parsers read differently is refused here, in every mode: the sender and
the servers before and behind us must agree on where a request ends.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate

import httptools

from ollama_wrap.call import Header

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
_VERSION = re.compile(rb" HTTP/[0-9]\.[0-9]\Z")
_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
#: digits of a Content-Length that fits 64 bits with a sign, as in Go
_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Sizes:
    """The largest head, field and target in bytes, and the most fields.

    httptools alone kept 61 MiB of one unfinished head; nginx allows 32 KiB, Go 1 MiB.
    """

    head: int = 64 * 1024
    field: int = 16 * 1024
    target: int = 8 * 1024
    fields: int = 100


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


class Reader:
    """Reads the heads of one connection, one after the other; the last one is in its fields.

    The parser sees heads alone: bodies are none of its business, so it cannot
    skip that of a request that asks for another protocol, nor take one for a
    next request.
    """

    __slots__ = (
        "_fresh",
        "alive",
        "fields",
        "headers",
        "http11",
        "length",
        "method",
        "parser",
        "target",
        "url",
    )

    def __init__(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self._fresh = True
        self.url = b""
        self.method = ""
        #: as it came; of an absolute form that names us, the path
        self.target = b""
        self.headers: list[Header] = []
        #: the same by lower-case name, the first value where a name repeats
        self.fields: Mapping[bytes, bytes] = {}
        self.http11 = True
        #: the client wants the connection to stay
        self.alive: bool | None = None
        #: of the body in bytes; -1: chunked
        self.length = 0

    def read(self, head: bytes, sizes: Sizes) -> Fault | None:
        """Take one whole head, its blank line included; None: it is sound."""
        line, _, rest = head.partition(b"\r\n")
        if len(head) > sizes.head:
            return Fault(431, "request head too large")
        if len(line) > sizes.target + 32:
            return Fault(414, "request target too long")
        if line.count(b" ") != 2:
            return Fault(400)
        if not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
            return Fault(505, "unsupported HTTP version") if _VERSION.search(line) else Fault(400)
        self.http11 = line.endswith(b"1")
        raw = b""
        if not line.isascii():
            # httptools refuses bytes that stock takes in a target.
            raw = line[line.find(b" ") + 1 : -9]
            head = _EIGHT_BIT.sub(b"x", line) + b"\r\n" + rest
        if not self._feed(head):
            return Fault(400)
        self.fields = {name.lower(): value for name, value in reversed(self.headers)}
        self.target = raw or self.url
        if self.target[:4].lower() == b"http":
            self.target = own_path(self.target, self.fields.get(b"host", b"")) or self.target
        return self._check(sizes)

    def _feed(self, head: bytes) -> bool:
        if not self._fresh:
            self.parser = httptools.HttpRequestParser(self)
        self._fresh, self.alive = False, None
        self.url, self.headers = b"", []
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # to another protocol: nobody here speaks one
        except httptools.HttpParserError:
            return False
        self.method = self.parser.get_method().decode("ascii")
        return self.alive is not None

    def _check(self, sizes: Sizes) -> Fault | None:
        target = self.target
        if len(target) > sizes.target:
            return Fault(414, "request target too long")
        if len(self.headers) > sizes.fields:
            return Fault(431, "too many header fields")
        if self.method == "CONNECT" or not (target.startswith(b"/") or target == b"*"):
            return Fault(400, "request target must be a path")
        fault = _of_fields(self.headers, sizes.field, http11=self.http11)
        if fault is not None:
            return fault
        if b"transfer-encoding" in self.fields:
            self.length = -1
            return None
        announced = self.fields.get(b"content-length")
        if announced is None:
            self.length = 0
            self._fresh = bool(self.alive) and b"upgrade" not in self.fields
            return None
        if len(announced) > _DIGITS:
            return Fault(400)
        self.length = int(announced)
        return None

    # httptools calls these

    def on_url(self, url: bytes) -> None:
        """Record a part of the target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a field."""
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Record what the parser forgets when it goes on."""
        self.alive = self.parser.should_keep_alive()


def unfinished(data: bytes, seen: int, sizes: Sizes) -> Fault | None:
    """What is wrong already with a head that has not ended; its first `seen` bytes are known."""
    if len(data) > sizes.head:
        return Fault(431, "request head too large")
    if not 0x41 <= data[0] <= 0x5A or _NOT_IN_HEAD.search(data, max(0, seen - 1)):
        return Fault(400)
    if len(data) > sizes.target + 32 and data.find(b"\r\n", 0, sizes.target + 34) < 0:
        return Fault(414, "request target too long")
    return None


def _of_fields(headers: list[Header], largest: int, *, http11: bool) -> Fault | None:
    hosts = codings = 0
    for name, value in headers:
        size = len(name)
        if size + len(value) > largest:
            return Fault(431, "header field too large")
        if size == 4 and name.lower() == b"host":
            hosts += 1
            if not _HOST.match(value):
                return Fault(400, "malformed Host header")
        elif size == 6 and name.lower() == b"expect" and value.lower() != b"100-continue":
            return Fault(417)
        elif size == 17 and name.lower() == b"transfer-encoding":
            codings += 1
            if not http11 or codings > 1 or value.lower() != b"chunked":
                return Fault(400, "unsupported transfer encoding")
    if hosts > 1 or (hosts == 0 and http11):
        return Fault(400, "" if hosts else "missing required Host header")
    return None


def own_path(target: bytes, host: bytes) -> bytes | None:
    """The path of an absolute-form target whose authority is our Host; None: somebody else's."""
    scheme, _, rest = target.partition(b"://")
    authority, slash, path = rest.partition(b"/")
    if scheme.lower() != b"http" or not host or authority.lower() != host.lower():
        return None
    return slash + path or b"/"
