"""Store and Bus in this process: gone when it ends.

Owns two dictionaries. The Bus is also the one of every store that a single
process uses. Knows no files and no other process.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from ollama_wrap.clock import Clock
from ollama_wrap.errors import Conflict

#: changes between two searches for what has expired
SWEEP_AFTER = 1000
#: messages that wait for one subscriber; then the oldest goes
BACKLOG = 1000


class MemoryStore:
    """A dictionary with expiry."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: dict[str, tuple[bytes, float | None]] = {}
        self._changes = 0

    async def get(self, key: str) -> bytes | None:
        return self._value(key)

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._put(key, value, self._deadline(ttl))

    async def delete(self, key: str) -> bool:
        found = self._value(key) is not None
        self._entries.pop(key, None)
        return found

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        self._sweep()
        return sorted(
            (key, value) for key, (value, _) in self._entries.items() if key.startswith(prefix)
        )

    async def add(self, key: str, amount: int = 1, ttl: float | None = None) -> int:
        before = self._value(key)
        # A counter keeps the expiry that it was begun with.
        deadline = self._deadline(ttl) if before is None else self._entries[key][1]
        total = whole_number(key, before) + amount
        self._put(key, b"%d" % total, deadline)
        return total

    async def swap(self, key: str, old: bytes | None, new: bytes, ttl: float | None = None) -> None:
        if self._value(key) != old:
            raise Conflict(f"{key} was changed by somebody else")
        self._put(key, new, self._deadline(ttl))

    async def expire(self, key: str, ttl: float | None) -> bool:
        value = self._value(key)
        if value is None:
            return False
        self._put(key, value, self._deadline(ttl))
        return True

    async def close(self) -> None:
        """Nothing is held."""

    def __len__(self) -> int:
        """Entries in memory, expired ones that no sweep has found included."""
        return len(self._entries)

    def _value(self, key: str) -> bytes | None:
        value, deadline = self._entries.get(key, (None, None))
        if deadline is not None and deadline <= self._clock.monotonic():
            del self._entries[key]
            return None
        return value

    def _put(self, key: str, value: bytes, deadline: float | None) -> None:
        self._entries[key] = (value, deadline)
        self._changes += 1
        if self._changes >= SWEEP_AFTER:
            self._sweep()

    def _deadline(self, ttl: float | None) -> float | None:
        return None if ttl is None else self._clock.monotonic() + ttl

    def _sweep(self) -> None:
        self._changes = 0
        now = self._clock.monotonic()
        expired = [key for key, (_, end) in self._entries.items() if end is not None and end <= now]
        for key in expired:
            del self._entries[key]


def whole_number(key: str, value: bytes | None) -> int:
    """A counter's value, absent as 0; raises Conflict if it is something else."""
    try:
        return int(value or b"0")
    except ValueError:
        raise Conflict(f"{key} does not hold a number") from None


class MemoryBus:
    """Hands messages to the subscribers within this process."""

    def __init__(self) -> None:
        self._channels: dict[str, set[MemorySubscription]] = {}

    async def publish(self, channel: str, message: bytes) -> None:
        for subscription in self._channels.get(channel, ()):
            subscription.offer(message)

    async def subscribe(self, channel: str) -> "MemorySubscription":
        subscribers = self._channels.setdefault(channel, set())
        subscription = MemorySubscription(subscribers)
        subscribers.add(subscription)
        return subscription


class MemorySubscription:
    """A bounded backlog that one reader empties."""

    def __init__(self, subscribers: set["MemorySubscription"]) -> None:
        self.missed = 0
        self._subscribers = subscribers
        self._backlog: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._closed = False

    def offer(self, message: bytes) -> None:
        # Who reads too slowly loses news; nobody waits for them.
        if len(self._backlog) >= BACKLOG:
            self._backlog.popleft()
            self.missed += 1
        self._backlog.append(message)
        self._arrived.set()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._backlog:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._backlog.popleft()

    def close(self) -> None:
        self._closed = True
        self._subscribers.discard(self)
        self._backlog.clear()
        self._arrived.set()
