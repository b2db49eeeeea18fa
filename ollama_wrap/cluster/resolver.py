"""Names to addresses, away from the line: nothing that a client waits for resolves a name.

Owns the order of addresses and how many lookups may be under way. Must not know
nodes or when a name is asked for again.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

#: lookups at a time: the system's resolver blocks a thread for each, and others need threads too
AT_ONCE = 3
LOOPBACK = ("127.0.0.1", "::1")

Lookup = Callable[[str], Awaitable[tuple[str, ...]]]


def literal(host: str) -> tuple[str, ...]:
    """The addresses of a host that needs no lookup: an address, or `localhost`; else none."""
    if host.lower() == "localhost":
        return LOOPBACK
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        return ()


class Resolver:
    """The system's own resolver, asked through the loop."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, host: str) -> tuple[str, ...]:
        """IPv4 and IPv6 addresses in the system's order of preference; empty: it has none now."""
        async with self._turns:
            try:
                found = await asyncio.get_running_loop().getaddrinfo(
                    host, None, type=socket.SOCK_STREAM
                )
            except (OSError, UnicodeError):
                return ()
        return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
