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
from msgspec import Struct

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


class Head(Struct, eq=False):
    """A sound head. Requests that begin alike share one: it does not change once made.

    `headers` are as they came, less Content-Length, which is a fact of the request
    (`Reader.length`): `sized` is its place among them and its spelling, None where
    there was none. `fields` are the same by lower-case name, the first value where
    a name repeats. `notes` is for whoever works something out from the head alone.
    """

    method: str
    #: as it came; of an absolute form that names us, the path
    target: bytes
    headers: list[Header]
    fields: Mapping[bytes, bytes]
    http11: bool
    #: the client wants the connection to stay
    alive: bool
    chunked: bool
    sized: tuple[int, bytes] | None
    notes: dict[object, object]
    #: the client waits for `100 Continue` where there is a body
    expects: bool


#: what stands in a Reader's place for one until the first has been read
_NONE = Head("", b"", [], {}, True, True, False, None, {}, False)
#: heads that are kept, and the longest of them
KNOWN, KNOWN_SIZE = 512, 2048
_LENGTHS = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")


class Reader:
    """Reads the heads of one connection, one after the other; the last is `head`.

    The parser sees heads alone: bodies are none of its business, so it cannot
    skip that of a request that asks for another protocol, nor take one for a
    next request. A head that only differs in its length from one of `known` is
    not parsed again.
    """

    __slots__ = (
        "_after", "_alive", "_before", "_headers", "_known", "_parser", "_url", "head", "length"
    )  # fmt: skip

    def __init__(self, known: dict[bytes, Head]) -> None:
        self.head = _NONE
        #: the last head, what stands before and behind the digits of its length
        self._before = self._after = b""
        #: of the body in bytes; -1: chunked
        self.length = 0
        self._known = known
        # One for each head: it costs little to make, and an idle connection needs none.
        self._parser: httptools.HttpRequestParser | None = None
        self._alive: bool | None = None
        self._url = b""
        self._headers: list[Header] = []

    def again(self, data: bytes) -> bytes | None:
        """What follows a head that is the last one but for its length; None: it is another."""
        before = self._before
        if not before or not data.startswith(before):
            return None
        at = len(before)
        if not self._after:
            return data[at:]
        end = data.find(b"\r\n", at, at + _DIGITS + 2)
        digits = data[at:end]
        if not (digits.isdigit() and data.startswith(self._after, end)):
            return None
        self.length = int(digits)
        return data[end + len(self._after) :]

    def read(self, head: bytes, sizes: Sizes) -> Fault | None:
        """Take one whole head, its blank line included; None: it is sound."""
        before, digits, after = _split(head)
        self._before = b""
        fault = self._take(head, before + after, digits, sizes)
        # What it says of the length has to be in one place, and that one is known.
        if fault is None and (digits or self.head.sized is None):
            self._before, self._after = before, after
        return fault

    def _take(self, head: bytes, key: bytes, digits: bytes, sizes: Sizes) -> Fault | None:
        known = self._known.get(key)
        if known is not None and known.sized is None:
            self.head, self.length = known, -known.chunked
            return None
        if known is not None and digits.isdigit() and len(digits) <= _DIGITS:
            self.head, self.length = known, int(digits)
            return None
        fault = self._read(head, sizes)
        if fault is None and len(key) <= KNOWN_SIZE:
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known[key] = self.head
        return fault

    def _read(self, head: bytes, sizes: Sizes) -> Fault | None:
        line, _, rest = head.partition(b"\r\n")
        if len(head) > sizes.head:
            return Fault(431, "request head too large")
        if len(line) > sizes.target + 32:
            return Fault(414, "request target too long")
        if line.count(b" ") != 2:
            return Fault(400)
        if not line.endswith((b" HTTP/1.1", b" HTTP/1.0")):
            return Fault(505, "unsupported HTTP version") if _VERSION.search(line) else Fault(400)
        raw = b""
        if not line.isascii():
            # httptools refuses bytes that stock takes in a target.
            raw = line[line.find(b" ") + 1 : -9]
            head = _EIGHT_BIT.sub(b"x", line) + b"\r\n" + rest
        method = self._feed(head)
        if method is None:
            return Fault(400)
        return self._check(method, raw or self._url, sizes, http11=line.endswith(b"1"))

    def _feed(self, head: bytes) -> str | None:
        """The method, None for what the parser refuses."""
        parser = self._parser = httptools.HttpRequestParser(self)
        self._forget()
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # to another protocol: nobody here speaks one
        except httptools.HttpParserError:
            return None
        finally:
            self._parser = None
        method: str = parser.get_method().decode("ascii")
        return None if self._alive is None else method

    def _forget(self) -> None:
        self._url, self._headers, self._alive = b"", [], None

    def _check(self, method: str, target: bytes, sizes: Sizes, *, http11: bool) -> Fault | None:
        headers = self._headers
        fields = {name.lower(): value for name, value in reversed(headers)}
        if target[:4].lower() == b"http":
            target = own_path(target, fields.get(b"host", b"")) or target
        if len(target) > sizes.target:
            return Fault(414, "request target too long")
        if len(headers) > sizes.fields:
            return Fault(431, "too many header fields")
        if method == "CONNECT" or not (target.startswith(b"/") or target == b"*"):
            return Fault(400, "request target must be a path")
        fault = _of_fields(headers, sizes.field, http11=http11)
        if fault is not None:
            return fault
        announced = fields.pop(b"content-length", b"")
        if len(announced) > _DIGITS:
            return Fault(400)
        chunked = b"transfer-encoding" in fields
        self.length = int(announced) if announced else -chunked
        self.head = Head(
            method=method,
            target=target,
            headers=headers,
            fields=fields,
            http11=http11,
            alive=bool(self._alive),
            chunked=chunked,
            sized=unsized(headers),
            notes={},
            expects=http11 and b"expect" in fields,
        )
        return None

    # httptools calls these

    def on_url(self, url: bytes) -> None:
        """Record a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a field; the parser leaves the blanks behind a value."""
        self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Record what the parser forgets when it goes on."""
        self._alive = self._parser is not None and self._parser.should_keep_alive()


def unsized(headers: list[Header]) -> tuple[int, bytes] | None:
    """Take Content-Length out of `headers`: the place it had, and its spelling."""
    for place, (name, _) in enumerate(headers):
        if len(name) == len(b"content-length") and name.lower() == b"content-length":
            del headers[place]
            return place, name
    return None


def _split(head: bytes) -> tuple[bytes, bytes, bytes]:
    """A head before the digits of its Content-Length, these, and what is behind them."""
    for name in _LENGTHS:
        place = head.find(name)
        if place >= 0:
            begin = place + len(name)
            end = head.find(b"\r\n", begin)
            return head[:begin], head[begin:end], head[end:]
    return head, b"", b""


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
