"""Raw sockets for both sides of a sidecar, and the server between them.

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(b"GET /api/tags HTTP/1.1\r\n…")

`serving` runs the inbound protocol alone, before a `take` that a test wrote.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import uvicorn
from uvicorn.server import ServerState

from ollama_wrap import app, tasks
from ollama_wrap.config import Settings
from ollama_wrap.runtime import Runtime
from ollama_wrap.wire import inbound
from ollama_wrap.wire.guard import Guard, Limits
from tests.fakes.raw_http import RawReply, read_reply

#: seconds that anything may take here
PATIENCE = 5.0
HOST = b"Host: 127.0.0.1\r\n"
RESET = struct.pack("ii", 1, 0)


class Peer:
    """One end of a connection that sends and reads exactly what a test says."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.seen = b""

    async def send(self, *segments: bytes) -> None:
        """Each segment on its own, as far as TCP allows."""
        loop = asyncio.get_running_loop()
        for segment in segments:
            await loop.sock_sendall(self.sock, segment)
            if len(segments) > 1:
                await asyncio.sleep(0.001)

    async def read(self, most: int = 65536) -> bytes:
        """Some bytes, `b""` at the end; those that `until` left come first."""
        if self.seen:
            piece, self.seen = self.seen[:most], self.seen[most:]
            return piece
        async with asyncio.timeout(PATIENCE):
            return await asyncio.get_running_loop().sock_recv(self.sock, most)

    async def until(self, end: bytes) -> bytes:
        """Everything up to and with `end`."""
        async with asyncio.timeout(PATIENCE):
            while end not in self.seen:
                piece = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
                if not piece:
                    raise EOFError(self.seen)
                self.seen += piece
        at = self.seen.index(end) + len(end)
        found, self.seen = self.seen[:at], self.seen[at:]
        return found

    async def rest(self) -> bytes:
        """Everything to the end; a reset ends it too."""
        pieces = []
        with contextlib.suppress(ConnectionError):
            while piece := await self.read():
                pieces.append(piece)
        return b"".join(pieces)

    async def head(self) -> bytes:
        return await self.until(b"\r\n\r\n")

    async def quiet(self, seconds: float = 0.1) -> bool:
        """Nothing comes, not even the end."""
        try:
            async with asyncio.timeout(seconds):
                piece = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        except TimeoutError:
            return not self.seen
        self.seen += piece
        return False

    async def ended(self) -> str:
        """How the connection ended: fin or reset; what comes before is dropped."""
        try:
            while await self.read():
                pass
        except ConnectionError:
            return "reset"
        return "fin"

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


@contextlib.asynccontextmanager
async def client(port: int, *, window: int = 0) -> AsyncIterator[Peer]:
    """A client's connection; `window` bytes of receive buffer, 0: the system's."""
    sock = socket.socket()
    sock.setblocking(False)
    if window:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    with contextlib.closing(sock):
        yield Peer(sock)


async def talk(port: int, *segments: bytes) -> bytes:
    """Everything that a connection answers until its end."""
    async with client(port) as peer:
        with contextlib.suppress(ConnectionError):
            await peer.send(*segments)
        return await peer.rest()


async def parsed(raw: bytes, method: str = "GET") -> RawReply:
    reader = asyncio.StreamReader()
    reader.feed_data(raw)
    reader.feed_eof()
    return await read_reply(reader, method)


Script = Callable[[Peer], Awaitable[None]]


class Node:
    """An upstream whose every connection runs `script`; `connections` counts them."""

    def __init__(self, script: Script, *, window: int = 0) -> None:
        self._script = script
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        if window:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self._sock.setblocking(False)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port: int = self._sock.getsockname()[1]
        self.connections = 0
        #: how many scripts came to their end, and the errors of those that did not
        self.done = 0
        self.errors: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._tasks.add(asyncio.create_task(self._accept()))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._sock.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._sock)
            self.connections += 1
            self._tasks.add(asyncio.create_task(self._run(sock)))

    async def _run(self, sock: socket.socket) -> None:
        with contextlib.closing(sock):
            try:
                await self._script(Peer(sock))
                self.done += 1
            except Exception as error:  # noqa: BLE001  the test looks at it
                self.errors.append(error)


def answering(reply: bytes) -> Script:
    """Reads heads and answers each so; bodies of requests are not expected."""

    async def script(peer: Peer) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                await peer.head()
                await peer.send(reply)

    return script


def sized(body: bytes, *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(part), part)


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"


def post(path: str, body: bytes, *fields: bytes) -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (
        path.encode(),
        HOST,
        lines,
        len(body),
        body,
    )


def get(path: str, *fields: bytes, version: bytes = b"1.1") -> bytes:
    lines = b"".join(field + b"\r\n" for field in fields)
    return b"GET %b HTTP/%b\r\n%b%b\r\n" % (path.encode(), version, HOST, lines)


GENERATE = post("/api/generate", b'{"model":"tiny","prompt":"a"}')


@dataclass(slots=True)
class Sidecar:
    """A running sidecar in mode local."""

    runtime: Runtime
    port: int

    @property
    def guard(self) -> Guard:
        return self.runtime.guard

    @property
    def idle(self) -> int:
        """Connections to the node that wait for a request."""
        pools = self.runtime.pools._pools.values()
        return sum(len(pool.idle) for _, pool in pools)

    async def settled(self) -> None:
        await until(lambda: not self.runtime.pipeline.running)


@contextlib.asynccontextmanager
async def sidecar(local: int, **settings: Any) -> AsyncIterator[Sidecar]:
    """A sidecar before the node on port `local`; it is not probed. `settings` as in `Settings`."""
    base: dict[str, Any] = {
        "local": {"address": f"http://127.0.0.1:{local}"},
        "server": {"node_id": "tower", "listen": "127.0.0.1:11434"},
        "state": {"store": "memory"},
    }
    runtime = app.build(Settings.model_validate(base | settings))
    runtime.fleets.current.local.addresses = ("127.0.0.1",)  # as the prober would
    sweeping = asyncio.create_task(runtime.guard.run())
    try:
        async with listening(runtime.edge.take, runtime.guard, app.application(runtime)) as port:
            one = Sidecar(runtime, port)
            yield one
            await one.settled()
    finally:
        sweeping.cancel()
        runtime.pools.close()
        await runtime.store.close()


@contextlib.asynccontextmanager
async def serving(take: inbound.Take, limits: Limits | None = None) -> AsyncIterator[int]:
    """The inbound protocol alone, on a port; nothing but `take` answers."""
    guard = Guard(limits or Limits())
    sweeping = asyncio.create_task(guard.run())
    try:
        async with listening(take, guard) as port:
            yield port
    finally:
        sweeping.cancel()


@contextlib.asynccontextmanager
async def listening(take: inbound.Take, guard: Guard, asgi: Any = None) -> AsyncIterator[int]:
    made = inbound.protocol(take, guard)
    config = uvicorn.Config(asgi or _nobody, http=made, ws="none", log_config=None, lifespan="off")
    config.load()
    state = ServerState()
    loop = asyncio.get_running_loop()
    before = tasks.running()
    server = await loop.create_server(
        lambda: made(config=config, server_state=state, app_state={}), "127.0.0.1", 0, backlog=2048
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in tuple(guard.connections):
            connection.transport.abort()
        await until(lambda: not guard.connections)
        await until(lambda: tasks.running() <= before)
        assert guard.open == 0


async def _nobody(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nothing should come here")


async def until(holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Come back when something holds. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.002)


async def seconds_until(holds: Callable[[], bool]) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(holds)
    return loop.time() - began
