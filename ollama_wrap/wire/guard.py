"""The guard of client connections: caps on their number, deadlines for what they send.

One sweep over all connections replaces a timer each: setting a time costs a
request nothing. uvicorn has no deadline for receiving a request at all, and
ASGI middleware runs too late to have one.
"""

import asyncio
import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ollama_wrap.wire import head as heads

if TYPE_CHECKING:
    from ollama_wrap.wire.inbound import Inbound

#: Seconds between two sweeps; deadlines are late by at most this.
SWEEP = 0.25


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take. Seconds, bytes a second, counts; 0 switches a time off."""

    first_byte: float = 10.0
    header_deadline: float = 10.0
    body_idle: float = 30.0
    body_total: float = 0.0
    keepalive_idle: float = 180.0
    write_stall: float = 60.0
    connections: int = 12_000
    connections_per_address: int = 256


class Guard:
    """Knows every client connection; closes those that take too long."""

    def __init__(self, limits: Limits, trusted: frozenset[str] = frozenset()) -> None:
        self.limits = limits
        self.trusted = trusted
        self.connections: set[Inbound] = set()
        self._by_address: dict[str, int] = {}

    def admit(self, connection: "Inbound") -> heads.Fault | None:
        """Count a new connection; the fault of one too many."""
        self.connections.add(connection)
        address = connection.client[0] if connection.client else ""
        count = self._by_address[address] = self._by_address.get(address, 0) + 1
        if len(self.connections) > self.limits.connections or (
            count > self.limits.connections_per_address
            and address not in self.trusted
            and not _loopback(address)
        ):
            return heads.Fault(503, "too many connections")
        return None

    def forget(self, connection: "Inbound") -> None:
        """A connection has ended."""
        if connection not in self.connections:
            return
        self.connections.discard(connection)
        address = connection.client[0] if connection.client else ""
        left = self._by_address.get(address, 1) - 1
        if left:
            self._by_address[address] = left
        else:
            self._by_address.pop(address, None)

    async def run(self) -> None:
        """Sweep for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP)
            now = loop.time()
            for connection in tuple(self.connections):
                connection.sweep(now, self.limits)


@lru_cache(maxsize=1024)
def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
