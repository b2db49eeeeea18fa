"""One answer, and its bytes as Go's net/http frames them.

Owns: header order, Content-Length or chunks, HTTP/1.0, and every fault of the wire in a rule.
Must not know: what the answer says.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from http.client import responses

from ollama_wrap.testing.connection import Connection
from ollama_wrap.testing.gojson import encode
from ollama_wrap.testing.request import Request
from ollama_wrap.testing.script import RAW, Rule

JSON = "application/json; charset=utf-8"
PLAIN_JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
#: What Go holds back of a body that nobody flushed; a longer one is chunked
_GO_BUFFER = 2048


class CutError(Exception):
    """The script ended the answer here; the connection has been dealt with."""


@dataclass(slots=True)
class Reply:
    """Status, headers in any order, and a body: whole, or pieces that are a chunk each."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | AsyncGenerator[bytes, None] = b""
    #: No Content-Length although the body is empty
    unsized: bool = False


def json_reply(value: object, status: int = 200, kind: str = JSON, end: bytes = b"") -> Reply:
    """Return an answer of one JSON value."""
    return Reply(status, [("Content-Type", kind)], encode(value) + end)


async def one(piece: bytes) -> AsyncGenerator[bytes, None]:
    """Yield a body that was flushed: always chunked."""
    yield piece


class Sender:
    """Writes one answer to a connection, bent as the rule says."""

    def __init__(self, connection: Connection, rule: Rule) -> None:
        self.sent = 0
        self._connection = connection
        self._rule = rule
        self._limit = rule.cut_after
        self._chunks = 0
        self._kept = bytearray()

    async def send(self, reply: Reply, request: Request, *, closing: bool) -> None:
        """Write the whole answer. Raises CutError, GoneError."""
        rule = self._rule
        for _ in range(rule.informational):
            await self._put(b"HTTP/1.1 103 Early Hints\r\nLink: </>; rel=preload\r\n\r\n")
        if rule.raw is not None:
            await self._put(RAW.get(rule.raw, rule.raw).encode("latin-1"))
        else:
            await self._answer(reply, request, closing=closing)
        if rule.twice:
            await self._put(bytes(self._kept))

    async def _answer(self, reply: Reply, request: Request, *, closing: bool) -> None:
        framing = _framing(reply, request)
        head = _head(reply, request, framing, self._rule, closing=closing)
        if self._rule.cut_body_after is not None:
            self._limit = self.sent + len(head) + self._rule.cut_body_after
        if isinstance(reply.body, bytes):
            silent = request.method == "HEAD" or not reply.body
            body = b"" if silent else self._framed(reply.body, framing)
            await self._put(head + body + self._tail(framing, silent=silent))
            return
        # The head goes with the first piece: until then nothing is on the wire.
        async for piece in reply.body:
            await self._put(head + self._framed(piece, framing))
            head = b""
        await self._put(head + self._tail(framing, silent=False))

    def _framed(self, piece: bytes, framing: str) -> bytes:
        if framing != "chunked":
            return piece
        broken = self._rule.break_chunk == self._chunks
        self._chunks += 1
        size = b"zz" if broken else b"%x" % len(piece)
        return size + b"\r\n" + piece + b"\r\n"

    def _tail(self, framing: str, *, silent: bool) -> bytes:
        if framing != "chunked" or silent or self._rule.drop_last_chunk:
            return b""
        return b"0\r\n\r\n"

    async def _put(self, data: bytes) -> None:
        if self._rule.twice:
            self._kept += data
        if self._limit is not None and self.sent + len(data) >= self._limit:
            data = data[: max(self._limit - self.sent, 0)]
            if data:
                await self._connection.write(data)
            self.sent += len(data)
            # In order, or with an RST.
            if self._rule.cut_how == "fin":
                self._connection.close()
            else:
                # The bytes are to arrive before the RST that would overtake them.
                await asyncio.sleep(0.01)
                self._connection.reset()
            raise CutError
        self.sent += len(data)
        if data:
            await self._connection.write(data)


def _framing(reply: Reply, request: Request) -> str:
    if reply.status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED} or reply.unsized:
        return "none"
    # A body that nobody flushed has its length, if it fits into what Go holds back.
    if isinstance(reply.body, bytes) and len(reply.body) <= _GO_BUFFER:
        return "length"
    if request.method == "HEAD":
        return "none"
    return "close" if request.version == "HTTP/1.0" else "chunked"


def _head(reply: Reply, request: Request, framing: str, rule: Rule, *, closing: bool) -> bytes:
    """Return the head as Go writes it: the handler's headers by name, then the server's own."""
    old = request.version == "HTTP/1.0"
    lines = [f"HTTP/1.{0 if old else 1} {reply.status} {responses.get(reply.status, '')}"]
    given = [header for header in reply.headers if not (closing and header[0] == "Connection")]
    lines += [f"{name}: {value}" for name, value in sorted(given, key=lambda h: h[0])]
    lines += [f"{name}: {value}" for name, value in rule.headers]
    lines.append(f"Date: {format_datetime(datetime.now(UTC), usegmt=True)}")
    if framing == "length":
        lines.append(f"Content-Length: {len(reply.body) + rule.length_off}")  # type: ignore[arg-type]
    if closing and not old:
        lines.append("Connection: close")
    # An old client is told what a new one takes for granted.
    elif old and not closing and framing != "close":
        lines.append("Connection: keep-alive")
    if framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
