"""The connections of one node: reused last-in first-out, replaced when stale, closed when old."""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ollama_wrap import tasks
from ollama_wrap.errors import ConnectFailed, UpstreamError, UpstreamTimeout
from ollama_wrap.wire.connection import Connection
from ollama_wrap.wire.replies import Replies


@dataclass(frozen=True, slots=True)
class Alive:
    """How a silent peer is found: TCP's own questions, and bytes nobody acknowledges; seconds."""

    idle: float = 15.0
    interval: float = 5.0
    count: int = 3
    unacknowledged: float = 20.0

    def options(self) -> tuple[tuple[str, int, int], ...]:
        """Socket options; systems lack some of them."""
        return (
            ("SO_KEEPALIVE", socket.SOL_SOCKET, 1),
            ("TCP_KEEPIDLE", socket.IPPROTO_TCP, max(1, round(self.idle))),
            ("TCP_KEEPINTVL", socket.IPPROTO_TCP, max(1, round(self.interval))),
            ("TCP_KEEPCNT", socket.IPPROTO_TCP, max(1, self.count)),
            ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, round(self.unacknowledged * 1000)),
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Where a pool connects to; times in seconds.

    `addresses` are asked anew for each connection: literals that the prober has
    resolved. `name` is what a TLS certificate is checked against.
    """

    addresses: Callable[[], Sequence[str]]
    port: int
    name: str
    tls: ssl.SSLContext | None = None
    #: to connect, in all, however many addresses there are
    connect: float = 2.0
    idle: float = 30.0
    options: tuple[tuple[str, int, int], ...] = Alive().options()


class Pool:
    """Open connections to one node."""

    def __init__(self, target: Target) -> None:
        self.target = target
        #: oldest first
        self.idle: deque[Connection] = deque()
        self.loop = asyncio.get_running_loop()
        self._closed = False
        self._expiring: asyncio.TimerHandle | None = None
        self._replies = Replies()

    def reuse(self) -> Connection | None:
        """An idle connection, the one used last; None: `connect`."""
        oldest = self.loop.time() - self.target.idle
        while self.idle:
            connection = self.idle.pop()
            if connection.closed or connection.transport.is_closing():
                continue
            if connection.idle_since < oldest:
                connection.drop()
                continue
            return connection
        return None

    async def connect(self, most: float | None = None) -> Connection:
        """A new connection, within `most` seconds where that is less than the target's own.

        Raises ConnectFailed, or UpstreamTimeout when nobody answers in time.
        A caller that is cancelled meanwhile leaves the connection to the pool.
        """
        work = tasks.start(self._connect(most), "connect")
        try:
            made = await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._keep)
            raise
        if isinstance(made, Connection):
            return made
        raise made

    def close(self) -> None:
        """End all idle connections; those at work end with their requests."""
        self._closed = True
        while self.idle:
            self.idle.pop().drop()
        if self._expiring is not None:
            self._expiring.cancel()

    def _keep(self, work: "asyncio.Task[Connection | UpstreamError]") -> None:
        if not work.cancelled() and isinstance(made := work.result(), Connection):
            self._free(made)

    async def _connect(self, most: float | None) -> Connection | UpstreamError:
        target = self.target
        limit = target.connect if most is None else min(most, target.connect)
        addresses = target.addresses()
        failure: UpstreamError = ConnectFailed(f"the name {target.name} has no known address")
        for address in addresses:
            try:
                async with asyncio.timeout(limit / len(addresses)):
                    return await self._open(address)
            except TimeoutError:
                failure = UpstreamTimeout(
                    f"{address}:{target.port} did not answer within {limit:g} s"
                )
                failure.sent = False
            except OSError as error:
                failure = ConnectFailed(f"{address}:{target.port}: {error.strerror or error}")
        return failure

    async def _open(self, address: str) -> Connection:
        target = self.target
        transport, connection = await self.loop.create_connection(
            lambda: Connection(self.loop, self._free, self._replies),
            address,
            target.port,
            ssl=target.tls,
            server_hostname=target.name if target.tls else None,
        )
        sock = transport.get_extra_info("socket")
        for name, level, value in target.options:
            if hasattr(socket, name):
                sock.setsockopt(level, getattr(socket, name), value)
        return connection

    def _free(self, connection: Connection) -> None:
        if connection.closed or self._closed or self.target.idle <= 0:
            connection.drop()
            return
        connection.idle_since = self.loop.time()
        self.idle.append(connection)
        if self._expiring is None:
            self._expiring = self.loop.call_later(self.target.idle, self._expire)

    def _expire(self) -> None:
        """Close what was not used for long; the oldest are never reached by `reuse`."""
        self._expiring = None
        now = self.loop.time()
        while self.idle and self.idle[0].idle_since + self.target.idle <= now:
            self.idle.popleft().drop()
        if self.idle:
            due = self.idle[0].idle_since + self.target.idle
            self._expiring = self.loop.call_at(due, self._expire)
