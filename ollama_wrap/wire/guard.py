"""The guard of client connections: caps on their number, deadlines for what they send.

One sweep over all connections replaces a timer each: setting a time costs a
request nothing. uvicorn has no deadline for receiving a request at all, and
ASGI middleware runs too late to have one.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from ollama_wrap.observe.pressure import Strain
from ollama_wrap.wire import head as heads
from ollama_wrap.wire.base import Pace

if TYPE_CHECKING:
    from ollama_wrap.wire.inbound import Inbound

#: What a connection is at: see `wire.inbound`.
HEAD, BODY, CHUNKED, ANSWER, DROP = range(5)

#: Seconds between two sweeps; deadlines are late by at most this.
SWEEP = 0.25
#: Seconds between two sweeps after which this process must have slept, or its machine.
ASLEEP = 2.0
#: Seconds between two looks at clients that are held back: the loop does not see these leave.
LOOK = 0.05
#: Seconds that a connection drops what still comes after an early reply, as Go's server does.
LINGER = 0.5
#: Write marks of each stream while all of them together hold too much.
NARROW = (64 * 1024, 16 * 1024)
#: The same while memory is short.
SPARING = (256 * 1024, 64 * 1024)
#: Seconds that a connection may be idle while files or memory are short.
IDLE = 1.0
#: TCP_CLOSE and TCP_CLOSE_WAIT of linux/tcp_states.h
_LEFT = (7, 8)


@dataclass(frozen=True, slots=True)
class Upload:
    """How slow a body may be: `idle` seconds of silence, `rate` bytes a second over `window` s."""

    idle: float
    rate: int
    window: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take. Seconds, bytes, counts; 0 switches a time off."""

    first_byte: float = 10.0
    header_deadline: float = 10.0
    body: Upload = field(default=Upload(30.0, 1024, 10.0))
    blob: Upload = field(default=Upload(60.0, 16 * 1024, 60.0))
    body_total: float = 0.0
    keepalive_idle: float = 180.0
    write_stall: float = 60.0
    write_stall_once: float = 600.0
    connections: int = 12_000
    connections_per_address: int = 256
    streams: int = 4000
    sizes: heads.Sizes = field(default_factory=heads.Sizes)
    #: a stream's buffer: stop reading the node above the first, read on below the second
    marks: tuple[int, int] = (1024 * 1024, 256 * 1024)
    #: bytes that all streams may hold before each gets narrow marks
    buffered: int = 256 * 1024 * 1024


def affordable(wanted: int, files: int | None) -> int:
    """How many connections there may be: those `wanted`, but never more than `files` allow.

    Each may need a second file towards a node; 256 files are for everything else. With
    few files there are 64 all the same.
    """
    return wanted if files is None else min(wanted, max(64, (files - 256) // 2))


def host_of(peer: tuple[str, int | None] | None) -> str:
    """One end of a connection without its port, as IPv4 where it is one in IPv6's clothes."""
    return peer[0].removeprefix("::ffff:") if peer else ""


class Guard:
    """Knows every client connection; closes those that take too long.

    `trusted` says which addresses may have any number of connections, beside loopback;
    `strain` what is to be spared.
    """

    def __init__(
        self,
        limits: Limits,
        trusted: Callable[[str], bool] = lambda _: False,
        strain: Strain | None = None,
    ) -> None:
        self.limits = limits
        self.strain = strain or Strain()
        self.marks = limits.marks
        #: sound heads that came before, less the digits of their length
        self.heads: dict[bytes, heads.Head] = {}
        #: requests that the edge has taken and that are not answered
        self.open = 0
        self.connections: set[Inbound] = set()
        self._trusted = trusted
        self._by_address: dict[str, int] = {}
        self._held: set[Inbound] = set()
        self._looking: asyncio.TimerHandle | None = None

    def obey(self, limits: Limits) -> None:
        """Go by other limits from now on; write marks follow with the next sweep."""
        self.limits = limits

    def forget_heads(self) -> None:
        """What was worked out from heads that came before holds no more."""
        for head in self.heads.values():
            head.notes.clear()
        # Those that were too long to be kept, or are no more.
        for connection in self.connections:
            connection.reader.head.notes.clear()

    def admit(self, connection: "Inbound") -> heads.Fault | None:
        """Count a new connection; the fault of one too many."""
        self.connections.add(connection)
        address = connection.address
        count = self._by_address[address] = self._by_address.get(address, 0) + 1
        if len(self.connections) > self.limits.connections or (
            count > self.limits.connections_per_address
            # All clients of one machine, or of one proxy, come from one address.
            and not _loopback(address)
            and not self._trusted(address)
        ):
            return heads.Fault(503, "too many connections")
        return None

    def forget(self, connection: "Inbound") -> None:
        """A connection has ended."""
        self._held.discard(connection)
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        address = connection.address
        left = self._by_address.get(address, 1) - 1
        if left:
            self._by_address[address] = left
        else:
            self._by_address.pop(address, None)

    async def run(self) -> None:
        """Sweep for ever."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(SWEEP)
            now = loop.time()
            if now - last > ASLEEP:
                self.forgive(now)
            self.sweep(now, min(now - last, ASLEEP))
            last = now

    def forgive(self, now: float) -> None:
        """Nobody is late: what came while this process slept has not been read yet."""
        for connection in self.connections:
            connection.since = connection.moved = now

    def sweep(self, now: float, elapsed: float) -> None:
        """Close what has passed a limit; `elapsed` seconds since the last sweep."""
        buffered = 0
        for connection in tuple(self.connections):
            buffered += self._check(connection, now, elapsed)
        if len(self.connections) > self.limits.connections // 2:
            self._thin_out()
        # Not at the same mark, or it would go to and fro.
        most = self.limits.buffered // (2 if self.marks == NARROW else 1)
        usual = min(self.limits.marks, SPARING) if self.strain.spare else self.limits.marks
        self._set_marks(NARROW if buffered > most else usual)

    def _check(self, connection: "Inbound", now: float, elapsed: float) -> int:
        """Close one that has passed a limit of its client; returns its bytes not sent yet."""
        limits = self.limits
        stage, exchange = connection.stage, connection.exchange
        unsent = connection.transport.get_write_buffer_size()
        # One that we close is still written to; it may stall like any other.
        closing = connection.transport.is_closing()
        streaming = stage in (BODY, CHUNKED, ANSWER) and not closing
        full = connection.flow.write_paused or not streaming
        if not unsent or unsent < connection.unsent or not full:
            connection.moved = now
        connection.unsent = unsent
        bulk = exchange is not None and exchange.pace is Pace.BULK
        stall = limits.write_stall_once if bulk else limits.write_stall
        if _passed(now - connection.moved, stall):
            connection.reset()
            return 0
        age = now - connection.since
        if closing or stage == ANSWER:
            return unsent
        if stage == HEAD and connection.left:
            if _passed(age, limits.header_deadline):
                connection.refuse(heads.Fault(408, "request head too slow"))
        elif stage == HEAD:
            scarce = self.strain.hang_up or self.strain.brief
            limit = limits.keepalive_idle if connection.served else limits.first_byte
            if _passed(age, limit) or (scarce and age > IDLE):
                connection.transport.close()
        elif stage == DROP:
            if unsent:
                connection.since = now
            elif age > LINGER:
                connection.transport.abort()
        elif self._slow(connection, now, elapsed, limits.blob if bulk else limits.body):
            connection.refuse(heads.Fault(408, "request body too slow"))
        return unsent

    def _slow(self, connection: "Inbound", now: float, elapsed: float, rule: Upload) -> bool:
        """Whether a body comes too slowly; what we hold back ourselves does not count."""
        exchange = connection.exchange
        if connection.flow.read_paused or (exchange is not None and exchange.expects):
            connection.since = now
            return False
        connection.window += elapsed
        connection.taking += elapsed
        slow = _passed(now - connection.since, rule.idle) or _passed(
            connection.taking, self.limits.body_total
        )
        if connection.window >= rule.window:
            slow = slow or connection.got < rule.rate * connection.window
            connection.window, connection.got = 0.0, 0
        return slow

    def _thin_out(self) -> None:
        """Requests whose head or body is still coming get half of all connections."""
        coming = [one for one in self.connections if one.receiving]
        if (surplus := len(coming) - self.limits.connections // 2) > 0:
            # The slowest go first: they have been at it longest.
            for connection in sorted(coming, key=lambda one: one.since)[:surplus]:
                connection.refuse(heads.Fault(503, "too many connections"))

    def _set_marks(self, marks: tuple[int, int]) -> None:
        if marks == self.marks:
            return
        self.marks = marks
        for connection in tuple(self.connections):
            if not connection.transport.is_closing():
                connection.transport.set_write_buffer_limits(*marks)

    # clients that are held back

    def watch(self, connection: "Inbound") -> None:
        """Nothing is read of this client now: look whether it leaves."""
        self._held.add(connection)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)

    def unwatch(self, connection: "Inbound") -> None:
        """It is read again."""
        self._held.discard(connection)

    def _look(self) -> None:
        for connection in tuple(self._held):
            if _closed_by_peer(connection.transport):
                connection.reset()
        self._looking = None
        if self._held:
            self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)


def _passed(age: float, limit: float) -> bool:
    return 0 < limit < age


def _closed_by_peer(transport: asyncio.Transport) -> bool:
    # Linux tells; elsewhere it is seen when reading goes on.
    sock = transport.get_extra_info("socket")
    if transport.is_closing() or sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    state: int = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state in _LEFT


@lru_cache(maxsize=1024)
def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
