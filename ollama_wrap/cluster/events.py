"""What happened, typed; published on the Bus for whoever listens.

Owns the events and their form on the Bus. Nobody waits for it: `tell` only
puts an event into a queue, and `run` takes it to the Bus. Must not know who
listens, nor decide anything.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import msgspec

from ollama_wrap.clock import Clock
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.base import Bus, Subscription
from ollama_wrap.state.names import EVENTS as CHANNEL

log = logging.getLogger(__name__)

#: events that wait for the Bus; then the oldest goes
BACKLOG = 1000


@dataclass(frozen=True, slots=True)
class NodeChanged:
    """A node went from one state word to another; `error` says why, where it is known."""

    node: str
    state: str
    previous: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CircuitChanged:
    """A circuit is open, half-open or closed now: of a node, or of one model there."""

    node: str
    state: str
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ModelsChanged:
    """Models came to a node, left it, or changed there."""

    node: str


@dataclass(frozen=True, slots=True)
class ModeChanged:
    """Another mode holds; `reason` as the status page says it."""

    mode: str
    previous: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChoiceMade:
    """An operator chose; `previous` is the earlier choice, None where the setting held."""

    choice: str
    value: str
    previous: str | None


Event = NodeChanged | CircuitChanged | ModelsChanged | ModeChanged | ChoiceMade

EVENTS: Mapping[str, type[Event]] = {
    "node": NodeChanged,
    "circuit": CircuitChanged,
    "models": ModelsChanged,
    "mode": ModeChanged,
    "choice": ChoiceMade,
}
WORDS = {kind: name for name, kind in EVENTS.items()}


@dataclass(frozen=True, slots=True)
class News:
    """An event, which sidecar told it, and when (Unix seconds)."""

    event: Event
    origin: str
    at: float


class _Envelope(msgspec.Struct):
    event: str
    origin: str
    at: float
    facts: msgspec.Raw


class Events:
    """The way to the Bus and back."""

    def __init__(self, bus: Bus, origin: str, clock: Clock) -> None:
        """`origin` is this sidecar's node id."""
        self.missed = 0
        self._bus = bus
        self._origin = origin
        self._clock = clock
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        """Publish soon; never waits."""
        # A Bus that hangs must not fill the memory.
        if self._waiting.qsize() >= BACKLOG:
            self._waiting.get_nowait()
            self.missed += 1
        self._waiting.put_nowait(write(News(event, self._origin, self._clock.now())))

    async def run(self) -> None:
        """Take events to the Bus, in their order, until cancelled; what it refuses is lost."""
        while True:
            message = await self._waiting.get()
            try:
                await self._bus.publish(CHANNEL, message)
            except StoreUnavailable as error:
                self.missed += 1
                log.warning("an event was not published: %s", error)

    async def listen(self) -> AsyncIterator[News]:
        """What is told from now on, by every sidecar on the Bus."""
        return _read_all(await self._bus.subscribe(CHANNEL))


def write(news: News) -> bytes:
    facts = msgspec.Raw(msgspec.json.encode(news.event))
    return msgspec.json.encode(_Envelope(WORDS[type(news.event)], news.origin, news.at, facts))


def read(message: bytes) -> News | None:
    """None for what this version does not understand."""
    try:
        envelope = msgspec.json.decode(message, type=_Envelope)
        kind = EVENTS[envelope.event]
        return News(msgspec.json.decode(envelope.facts, type=kind), envelope.origin, envelope.at)
    # Written by a newer version, or by nobody we know.
    except (msgspec.DecodeError, KeyError):
        return None


async def _read_all(subscription: Subscription) -> AsyncIterator[News]:
    try:
        async for message in subscription:
            if (news := read(message)) is not None:
                yield news
    finally:
        subscription.close()
