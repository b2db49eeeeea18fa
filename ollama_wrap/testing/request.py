"""One request as it came in, read as Go's net/http reads it.

Owns: the head, the framing of the body, what makes a request unreadable.
Must not know: routes, or what a body says.
"""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit

from ollama_wrap.testing.connection import Connection, GoneError
from ollama_wrap.testing.ledger import Entry
from ollama_wrap.testing.script import Rule

#: Go's own limit
_HEAD_LIMIT = 1 << 20
_PIECE = 64 * 1024
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
#: Digits without a sign, and an extension that is not looked at
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;|\r\n\Z)")
#: What Go refuses in a path
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class UnreadableError(Exception):
    """A request that Go's server refuses by itself, with this status line and sentence."""

    def __init__(self, status: str, detail: str = "") -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


@dataclass(slots=True)
class Request:
    """A head, and the body still on the connection. `raw` holds the body once it was read."""

    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]
    connection: Connection
    path: str = ""
    host: str = ""
    #: Bytes of the body that are left on the connection; -1: chunked and not at its end
    length: int = 0
    begun: bool = False
    raw: bytes = b""
    model: str = ""
    rule: Rule = field(default_factory=Rule)
    entry: Entry | None = None

    def header(self, name: str) -> str:
        """Return the first value of a header, "" if it is not there."""
        return next((v for n, v in self.headers if n.lower() == name), "")

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants the connection to stay."""
        words = {word.strip().lower() for word in self.header("connection").split(",")}
        if self.version == "HTTP/1.0":
            return "keep-alive" in words
        return "close" not in words

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes; asks for it first if the client waits for that."""
        if self.length and not self.begun:
            self.begun = True
            if self.header("expect").lower() == "100-continue":
                await self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while self.length > 0:
            piece = await self.connection.some(min(self.length, _PIECE))
            self.length -= len(piece)
            yield piece
        while self.length < 0:
            line = await self.connection.line_end(b"\r\n", 4096)
            found = _CHUNK.match(line)
            if found is None:
                raise GoneError
            size = int(found[1], 16)
            # Trailers are read and dropped.
            if size == 0:
                while await self.connection.line_end(b"\r\n", _HEAD_LIMIT) != b"\r\n":
                    pass
                self.length = 0
                return
            while size:
                piece = await self.connection.some(min(size, _PIECE))
                size -= len(piece)
                yield piece
            await self.connection.exactly(2)


async def read_head(connection: Connection) -> Request:
    """Read one request's head. Raises GoneError at the end, UnreadableError."""
    block = b"\r\n"
    while block == b"\r\n":
        block = await connection.line_end(b"\r\n", _HEAD_LIMIT)
    rest = b"" if not block else await _header_block(connection)
    if not block or not rest:
        raise UnreadableError("431 Request Header Fields Too Large")
    words = block[:-2].split(b" ")
    if len(words) != 3 or not _TOKEN.match(words[0]):
        raise UnreadableError("400 Bad Request")
    version = words[2].decode("latin-1")
    if not re.fullmatch(r"HTTP/\d\.\d", version):
        raise UnreadableError("400 Bad Request", "malformed HTTP version")
    if not version.startswith("HTTP/1."):
        raise UnreadableError("505 HTTP Version Not Supported", "unsupported protocol version")
    headers = [_header(line) for line in rest.split(b"\r\n")[:-2]]
    request = Request(words[0].decode(), words[1].decode("latin-1"), version, headers, connection)
    _place(request)
    _frame(request)
    return request


async def _header_block(connection: Connection) -> bytes:
    lines = []
    while True:
        line = await connection.line_end(b"\r\n", _HEAD_LIMIT)
        lines.append(line)
        if line in {b"", b"\r\n"}:
            return b"".join(lines) if line else b""


def _header(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.match(name):
        raise UnreadableError("400 Bad Request")
    return name.decode(), value.strip(b" \t").decode("latin-1")


def _place(request: Request) -> None:
    """Fill path and host from target and headers."""
    target = request.target
    hosts = [value for name, value in request.headers if name.lower() == "host"]
    if not hosts and request.version == "HTTP/1.1":
        raise UnreadableError("400 Bad Request: missing required Host header")
    if len(hosts) > 1:
        raise UnreadableError("400 Bad Request", "too many Host headers")
    request.host = hosts[0] if hosts else ""
    # An absolute target overrules the Host header.
    if target.startswith(("http://", "https://")):
        parts = urlsplit(target)
        request.host, target = parts.netloc, parts.path or "/"
    path = target.partition("?")[0]
    if not (path.startswith("/") or path == "*") or _BAD_ESCAPE.search(path):
        raise UnreadableError("400 Bad Request")
    request.path = unquote_to_bytes(path).decode("utf-8", "surrogateescape")


def _frame(request: Request) -> None:
    coding = [value for name, value in request.headers if name.lower() == "transfer-encoding"]
    lengths = {value for name, value in request.headers if name.lower() == "content-length"}
    if coding:
        # Beside a coding Go ignores a length.
        if [value.lower() for value in coding] != ["chunked"]:
            raise UnreadableError("501 Not Implemented", "Unsupported transfer encoding")
        request.length = -1
    elif lengths:
        text = lengths.pop()
        if lengths or not (text.isascii() and text.isdigit()):
            raise UnreadableError("400 Bad Request")
        request.length = int(text)
