"""A connection to a node without a socket: the test plays the node.

`warm` makes one that is idle in the pool of an upstream, as after an earlier call.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy.means import Wire
from ollama_wrap.wire import outbox
from ollama_wrap.wire.connection import Connection

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
)
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class FakeTransport(asyncio.Transport):
    """Keeps what is written; an abort is told to the protocol in the next turn, as sockets do."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.written = bytearray()
        self.paused = self.gone = False
        self._loop = loop
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.gone

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self.gone:
            self.gone = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return 0


class Node:
    """The node's side of a connection. `free`: it was given back."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.free = False
        self.connection = Connection(loop, self._freed)
        self.transport = FakeTransport(loop, self.connection)
        self.connection.connection_made(self.transport)
        self.connection.idle_since = loop.time()
        self.connection.requests = 1

    def _freed(self, _: Connection) -> None:
        self.free = True

    @property
    def asked(self) -> bytes:
        outbox.of(self.connection.loop).flush()
        return bytes(self.transport.written)

    def says(self, *parts: bytes) -> None:
        self.connection.data_received(b"".join(parts))

    def ends(self) -> None:
        """It ends the connection."""
        self.transport.gone = True
        self.connection.connection_lost(None)


@contextmanager
def slow(node: Node) -> Iterator[None]:
    """While it lasts the node takes no more bytes."""
    node.connection.pause_writing()
    yield
    node.connection.resume_writing()


def warm(wire: Wire, upstream: Upstream) -> Node:
    node = Node()
    pool = wire.pools.of(upstream.node, lambda: upstream.addresses)
    pool.idle.append(node.connection)
    return node
