"""Store and Bus: where shared facts are kept, and how news travels.

Two small contracts. Keys and channels come from `names.py`, values are bytes
that only their owner reads. Nothing here knows what is stored.
"""

from collections.abc import AsyncIterator
from typing import Protocol


class Store(Protocol):
    """Facts under keys, each with an optional time to live in seconds.

    Every method raises StoreUnavailable when the store does not answer. What a
    method that changes something has returned from outlives a crash, in stores
    that keep anything at all.
    """

    async def get(self, key: str) -> bytes | None:
        """The value, or None if there is none or it has expired."""

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        """Put `value` there, whatever was there before; without `ttl` it stays for good."""

    async def delete(self, key: str) -> bool:
        """Remove the key; True if there was one."""

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """All keys that begin with `prefix`, with their values, in the order of the keys."""

    async def add(self, key: str, amount: int = 1, ttl: float | None = None) -> int:
        """Count up and return the new number; absent counts as 0.

        `ttl` holds from the addition that made the key, later ones do not
        prolong it. Raises Conflict if the value there is not a whole number.
        """

    async def swap(self, key: str, old: bytes | None, new: bytes, ttl: float | None = None) -> None:
        """Put `new` there if `old` (None: nothing) is there now; else raises Conflict."""

    async def expire(self, key: str, ttl: float | None) -> bool:
        """Begin a new time to live (None: for good); False if there is no such key."""

    async def close(self) -> None:
        """Let go of files and connections; may be called twice."""


class Subscription(Protocol):
    """Messages of one channel from the moment of subscribing, in the order they came."""

    #: messages that were dropped because nobody took them in time
    missed: int

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def __anext__(self) -> bytes:
        """The next message; waits for it. Stops after `close`."""

    def close(self) -> None:
        """Take no more; may be called twice."""


class Bus(Protocol):
    """News for whoever listens now; nothing is kept for later."""

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell all subscribers; a slow one does not hold up anybody."""

    async def subscribe(self, channel: str) -> Subscription:
        """Listen from now on."""
