"""A loop without system calls: the sidecar's data path between a scripted node and clients.

What is left is our own code and asyncio's, so that its cost says something about
the code and little about the machine.
"""

import asyncio
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from ollama_wrap import app
from ollama_wrap.config import Settings
from ollama_wrap.nodes.inventory import Inventory, Loaded, Model
from ollama_wrap.nodes.names import canonical
from ollama_wrap.wire import inbound

MODEL = "llama3.2:1b"
LOCAL = ("127.0.0.1", 11436)
#: the end of a chunked body
END = b"0\r\n\r\n"


class Selector(selectors.SelectSelector):
    """Nothing is ever ready: everything happens in the loop's own queue."""

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            time.sleep(min(0.001, timeout or 0.001))
        return []


class Loop(asyncio.SelectorEventLoop):
    """Each connection that is opened leads to `node`."""

    def __init__(self, node: "Callable[[asyncio.AbstractEventLoop], Transport]") -> None:
        super().__init__(Selector())
        self.node = node

    async def create_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        protocol, transport = protocol_factory(), self.node(self)
        transport.peer = protocol
        protocol.connection_made(transport)
        return transport, protocol


class Socket:
    """What protocols ask a socket."""

    family = socket.AF_INET

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 11434)

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 40000)

    def setsockopt(self, *_: Any) -> None:
        pass


class Transport(asyncio.Transport):
    """What `peer` writes comes to `written`; nothing is ever full."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"socket": Socket()})
        self.loop = loop
        self.peer: Any = None
        self.closing = False

    def written(self, data: bytes) -> None:
        raise NotImplementedError

    def write(self, data: Any) -> None:
        self.written(data)

    def writelines(self, list_of_data: Any) -> None:
        self.written(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0


class Node(Transport):
    """A node that answers each request with the same pieces, one each turn of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pieces: Sequence[bytes]) -> None:
        super().__init__(loop)
        self.pieces = pieces

    def written(self, data: bytes) -> None:
        if data.endswith(b"}"):
            self.loop.call_soon(self._give, 0)

    def _give(self, at: int) -> None:
        self.peer.data_received(self.pieces[at])
        if at + 1 < len(self.pieces) and not self.closing:
            self.loop.call_soon(self._give, at + 1)


class Client(Transport):
    """A client that sends the same request `times` times; counts the bytes that it gets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, request: bytes, end: bytes) -> None:
        super().__init__(loop)
        self.request = request
        self.end = end
        self.left = self.got = 0
        self.head = b""
        self.done: asyncio.Future[None] = loop.create_future()

    def written(self, data: bytes) -> None:
        if not self.head:
            self.head = bytes(data)
        self.got += len(data)
        if data.endswith(self.end):
            self.loop.call_soon(self.next)

    def start(self, times: int) -> asyncio.Future[None]:
        self.left, self.done = times, self.loop.create_future()
        self.next()
        return self.done

    def next(self) -> None:
        if self.left:
            self.left -= 1
            self.peer.data_received(self.request)
        elif not self.done.done():
            self.done.set_result(None)


def sidecar() -> app.Runtime:
    """In mode distributed, with one other node; both are up and hold the model."""
    settings = {
        "distributed": True,
        "num_parallel": 1024,
        "local": {"address": f"http://{LOCAL[0]}:{LOCAL[1]}"},
        "nodes": {"text": "far=http://127.0.0.1:11437;slots=1024"},
        "server": {"node_id": "bench", "listen": "127.0.0.1:11434"},
        "state": {"store": "memory"},
    }
    runtime = app.build(Settings.model_validate(settings))
    now, wall = runtime.clock.monotonic(), runtime.clock.now()
    key = canonical(MODEL)
    for upstream in runtime.fleets.current.upstreams:
        upstream.addresses = ("127.0.0.1",)
        listed = Inventory().listed([Model(MODEL, key, "d" * 64)], wall)
        upstream.inventory = listed.running([Loaded(key, "d" * 64)])
        for _ in range(3):
            upstream.health = upstream.health.probed_ok(now, wall, 0.001)
    return runtime


def connections(runtime: app.Runtime, count: int, request: bytes, end: bytes) -> Sequence[Client]:
    """Clients that are connected to the sidecar."""
    application = app.application(runtime)
    take = inbound.protocol(runtime.edge.take, runtime.guard)
    config = uvicorn.Config(application, http=take, ws="none", log_config=None, access_log=False)
    loop, state, made = asyncio.get_running_loop(), ServerState(), []
    for _ in range(count):
        client = Client(loop, request, end)
        client.peer = take(config, state, {}, loop)
        client.peer.connection_made(client)
        made.append(client)
    return made
