"""An Exchange made of a plain ASGI call, for servers other than our own protocol class.

Asks the same `take`; a path of our own goes on to Starlette. What that server
drops (the raw target, header case, trailers kept apart) is lost; `docs/asgi.md`
says what.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from ollama_wrap import tasks
from ollama_wrap.api.edge import Edge
from ollama_wrap.call import Header
from ollama_wrap.errors import StreamBroken
from ollama_wrap.wire.base import Exchange, Framing, Pace
from ollama_wrap.wire.head import unsized

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

#: Bytes that wait for `send` before the node is held back.
_HIGH = 1024 * 1024


class Application:
    """The ASGI application: the edge first, then our own routes."""

    def __init__(self, own: App, edge: Edge) -> None:
        self._own = own
        self._edge = edge

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] == "http" and not self._edge.ours(_path(scope)):
            exchange = AsgiExchange(scope, receive, send)
            await exchange.run(self._edge)
        else:
            await self._own(scope, receive, send)


class AsgiExchange:
    """See `wire.base.Exchange`. One task reads `receive`, one writes `send`."""

    def __init__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        query = scope.get("query_string", b"")
        self.method: str = scope["method"]
        self.target: bytes = _path(scope).encode("latin-1") + (b"?" + query if query else b"")
        self.loop = asyncio.get_running_loop()
        self.headers: list[Header] = list(scope["headers"])
        self.fields: Mapping[bytes, bytes] = {
            name.lower(): value for name, value in reversed(self.headers)
        }
        self.http11: bool = scope.get("http_version", "1.1") != "1.0"
        client: str = (scope.get("client") or ("",))[0]
        self.ends = (client, (scope.get("server") or ("",))[0] or "")
        self.length, self.sized = -1, unsized(self.headers)
        http1 = scope.get("http_version", "1.1")[:1] == "1"
        if self.sized is not None or (http1 and b"transfer-encoding" not in self.fields):
            self.length = int(self.fields.get(b"content-length", b"0"))
        self.has_body = self.length != 0 or self.sized is not None
        #: the server writes the head
        self.plain = False
        self.notes: dict[object, object] = {}
        self.keep_alive = True
        self.pace = Pace.BRIEF
        #: never known before it is read
        self.complete = self.length == 0 and self.sized is None
        self.started = self.over = self.paused = False
        self.writable: Callable[[], None] | None = None
        self.ready: Callable[[Exchange], None] | None = None
        self.gone: Callable[[], object] | None = None
        self._receive = receive
        self._send = send
        self._body: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._out: asyncio.Queue[Message | None] = asyncio.Queue()
        self._waiting = 0
        self._ended = False
        #: read by `whole`, for `read` to give again
        self._kept = b""

    async def run(self, edge: Edge) -> None:
        """Have it answered; returns when the answer is complete."""
        edge.take(self)
        if self.ready is not None:
            self.ready(self)
        reader = tasks.start(self._read(), "asgi reader")
        try:
            await self._write()
        except OSError:
            pass  # how a server may say that the client has left
        finally:
            self._lost()
            await tasks.stop(reader)

    # the body

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._lost()
                return
            if body := message.get("body", b""):
                await self._body.put(body)
            if not message.get("more_body", False):
                await self._body.put(b"")

    def _lost(self) -> None:
        if self.over:
            return
        self.over = True
        self._out.put_nowait(None)
        if self.gone is not None:
            self.gone()

    def taken(self) -> bytes:
        """See `Exchange.taken`; bodies are read here."""
        return b""

    async def whole(self, limit: int) -> bytes | None:
        """See `Exchange.whole`."""
        parts: list[bytes] = []
        size = 0
        while part := await self.read():
            parts.append(part)
            size += len(part)
            if size > limit:
                self._kept = b"".join(parts)
                return None
        return b"".join(parts)

    async def read(self) -> bytes:
        """See `Exchange.read`."""
        if self._kept:
            kept, self._kept = self._kept, b""
            return kept
        if self._ended:
            return b""
        if self.over:
            msg = "the client has left"
            raise StreamBroken(msg)
        part = await self._body.get()
        self._ended = not part
        return part

    # the answer

    def begin_with(self, head: bytes, framing: Framing) -> None:
        """Never: see `plain`."""

    def begin(self, status: int, phrase: bytes, headers: list[Header], framing: Framing) -> None:
        """See `Exchange.begin`."""
        self.started = True
        self._out.put_nowait(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.lower(), value) for name, value in headers],
            }
        )

    def feed(self, pieces: list[bytes]) -> None:
        """See `Exchange.feed`."""
        if self.over:
            return
        body = b"".join(pieces)
        self._waiting += len(body)
        self.paused = self._waiting > _HIGH
        self._out.put_nowait({"type": "http.response.body", "body": body, "more_body": True})

    def flush(self) -> None:
        """See `Exchange.flush`."""

    def end(self) -> None:
        """See `Exchange.end`."""
        if not self.over:
            self.over = True
            self._out.put_nowait({"type": "http.response.body", "body": b"", "more_body": False})
            self._out.put_nowait(None)

    def cut(self) -> None:
        """See `Exchange.cut`: a server that misses the end of a body breaks the connection."""
        if not self.over:
            self.over = True
            self._out.put_nowait(None)

    async def _write(self) -> None:
        while (message := await self._out.get()) is not None:
            await self._send(message)
            self._waiting -= len(message.get("body", b""))
            if self.paused and self._waiting <= _HIGH // 4:
                self.paused = False
                if self.writable is not None:
                    self.writable()


def _path(scope: MutableMapping[str, Any]) -> str:
    raw = scope.get("raw_path") or scope["path"].encode()
    return bytes(raw).partition(b"?")[0].decode("latin-1")
