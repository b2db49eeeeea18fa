import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from ollama_wrap.cluster.events import (
    BACKLOG,
    EVENTS,
    ChoiceMade,
    CircuitChanged,
    Event,
    Events,
    ModeChanged,
    ModelsChanged,
    News,
    NodeChanged,
    read,
    write,
)
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.memory import MemoryBus
from tests.fakes.clock import FakeClock

ONE_OF_EACH: list[Event] = [
    NodeChanged("r1", "down", "suspect", "connection refused"),
    CircuitChanged("r1", "open", "llama3:latest"),
    ModelsChanged("r1"),
    ModeChanged("standalone", "distributed", "no-node-answers"),
    ChoiceMade("fallback", "false", None),
]


class FailingOnce(MemoryBus):
    """Refuses the first message."""

    refused = False

    async def publish(self, channel: str, message: bytes) -> None:
        if not self.refused:
            self.refused = True
            raise StoreUnavailable("the bus is away")
        await super().publish(channel, message)


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


@contextlib.asynccontextmanager
async def running(events: Events) -> AsyncIterator[None]:
    task = asyncio.create_task(events.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_what_is_written_is_read_again(event: Event) -> None:
    news = News(event, "tower", 1_700_000_000.5)

    assert read(write(news)) == news


def test_every_event_is_in_the_table() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(EVENTS.values())


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"event":"later","origin":"a","at":1,"facts":{}}',
        b'{"event":"models","origin":"a","at":1,"facts":{}}',
        b'{"event":"models","origin":"a","at":1,"facts":{"node":7}}',
        b'{"event":"models","origin":"a","facts":{"node":"r1"}}',
    ],
)
def test_what_another_version_writes_is_nothing(message: bytes) -> None:
    assert read(message) is None


def test_facts_that_a_later_version_adds_are_ignored() -> None:
    message = b'{"event":"models","origin":"a","at":1,"more":1,"facts":{"node":"r1","more":1}}'

    assert read(message) == News(ModelsChanged("r1"), "a", 1)


async def test_listeners_hear_who_told_what_and_when_in_order(bus: MemoryBus) -> None:
    clock = FakeClock(wall=100.0)
    tower, laptop = Events(bus, "tower", clock), Events(bus, "laptop", clock)
    heard = await laptop.listen()

    for n in range(3):
        tower.tell(ModelsChanged(f"r{n}"))
        clock.advance(1)
    async with running(tower):
        news = [await anext(heard) for _ in range(3)]

    assert news == [News(ModelsChanged(f"r{n}"), "tower", 100.0 + n) for n in range(3)]


async def test_listener_skips_what_it_does_not_understand(bus: MemoryBus) -> None:
    events = Events(bus, "tower", FakeClock())
    heard = await events.listen()

    await bus.publish("events", b"nonsense")
    events.tell(ModelsChanged("r1"))
    async with running(events):
        news = await anext(heard)

    assert news.event == ModelsChanged("r1")


async def test_bus_that_is_away_loses_an_event_and_no_more() -> None:
    events = Events(FailingOnce(), "tower", FakeClock())
    heard = await events.listen()

    events.tell(ModelsChanged("lost"))
    events.tell(ModelsChanged("heard"))
    async with running(events):
        news = await anext(heard)

    assert news.event == ModelsChanged("heard")
    assert events.missed == 1


async def test_telling_never_waits_and_drops_the_oldest(bus: MemoryBus) -> None:
    events = Events(bus, "tower", FakeClock())
    heard = await events.listen()

    for n in range(BACKLOG + 3):
        events.tell(ModelsChanged(f"r{n}"))
    async with running(events):
        news = await anext(heard)

    assert news.event == ModelsChanged("r3")
    assert events.missed == 3
