"""An Exchange without a connection: the test plays the client, and reads what was written."""

import asyncio
from collections.abc import Callable
from typing import cast

from ollama_wrap.call import Header
from ollama_wrap.errors import StreamBroken
from ollama_wrap.wire.base import Exchange, Framing, Pace
from ollama_wrap.wire.head import unsized

Written = tuple[str, str]


class FakeExchange:
    """See `wire.base.Exchange`. `body` None: the client sends one, but not yet."""

    def __init__(
        self,
        method: str = "GET",
        target: str = "/api/tags",
        *fields: Written,
        body: bytes | None = b"",
        client: str = "127.0.0.1",
        listener: str = "127.0.0.1:11434",
    ) -> None:
        self.method = method
        self.target = target.encode("latin-1")
        self.loop = asyncio.get_running_loop()
        self.ends = (client, listener)
        self.body = body
        given = [("Host", "localhost:11434"), *fields]
        if body:
            given.append(("Content-Length", str(len(body))))
        self.headers: list[Header] = [(n.encode(), v.encode("latin-1")) for n, v in given]
        self.fields = {name.lower(): value for name, value in reversed(self.headers)}
        self.sized = unsized(self.headers)
        self.length = -1 if body is None else len(body)
        self.notes: dict[object, object] = {}
        self.http11 = self.keep_alive = True
        self.pace = Pace.BRIEF
        self.started = self.over = self.paused = self.broken = False
        self.writable: Callable[[], None] | None = None
        self.gone: Callable[[], object] | None = None
        self.status = 0
        self.phrase = b""
        self.reply_headers: list[Header] = []
        self.framing = Framing.NONE
        self.written: list[bytes] = []
        self._came = asyncio.Event()

    @property
    def real(self) -> Exchange:
        return cast("Exchange", self)

    @property
    def has_body(self) -> bool:
        return self.length != 0

    def header(self, name: str) -> str | None:
        """Of the reply; the first of its name."""
        wanted = name.lower().encode()
        return next((v.decode() for n, v in self.reply_headers if n.lower() == wanted), None)

    @property
    def text(self) -> bytes:
        return b"".join(self.written)

    def leave(self) -> None:
        """The client goes away."""
        self.over = True
        if self.gone is not None:
            self.gone()

    @property
    def ready(self) -> Callable[[Exchange], None] | None:
        return None

    @ready.setter
    def ready(self, call: Callable[[Exchange], None] | None) -> None:
        if call is not None:
            self.loop.call_soon(call, self.real)

    @property
    def plain(self) -> bool:
        return self.http11 and self.keep_alive and self.complete

    @property
    def complete(self) -> bool:
        return self.body is not None

    def taken(self) -> bytes:
        part, self.body = self.body or b"", b""
        return part

    async def whole(self, limit: int) -> bytes | None:
        if self.body is None:
            await self._came.wait()
        body = self.body or b""
        return body if len(body) <= limit else None

    async def read(self) -> bytes:
        if self.over:
            raise StreamBroken("the client has left")
        part, self.body = self.body or b"", b""
        return part

    def begin(self, status: int, phrase: bytes, headers: list[Header], framing: Framing) -> None:
        assert not self.started
        self.started = True
        self.status, self.phrase, self.framing = status, phrase, framing
        self.reply_headers = headers

    def begin_with(self, head: bytes, framing: Framing) -> None:
        first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        _, status, phrase = first.split(b" ", 2)
        headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        if framing is Framing.CHUNKED:
            assert headers.pop() == (b"Transfer-Encoding", b"chunked")
        self.begin(int(status), phrase, headers, framing)

    def feed(self, pieces: list[bytes]) -> None:
        self.written += pieces

    def flush(self) -> None: ...

    def end(self) -> None:
        assert not self.over
        self.over = True

    def cut(self) -> None:
        self.over = self.broken = True
