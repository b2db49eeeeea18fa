"""What every Bus promises, asked of each of them."""

import asyncio

import pytest

from ollama_wrap.state import STORES, open_bus
from ollama_wrap.state.base import Bus, Subscription
from ollama_wrap.state.memory import BACKLOG


@pytest.fixture(params=sorted(STORES))
def bus(request: pytest.FixtureRequest) -> Bus:
    return open_bus(request.param)


async def take(subscription: Subscription, count: int) -> list[bytes]:
    return [await anext(subscription) for _ in range(count)]


async def test_all_subscribers_hear_all_messages_in_order(bus: Bus) -> None:
    one, two = await bus.subscribe("c"), await bus.subscribe("c")

    for n in range(20):
        await bus.publish("c", b"%d" % n)

    expected = [b"%d" % n for n in range(20)]
    assert await take(one, 20) == expected
    assert await take(two, 20) == expected


async def test_other_channels_and_earlier_messages_are_not_heard(bus: Bus) -> None:
    await bus.publish("c", b"early")
    subscription = await bus.subscribe("c")

    await bus.publish("d", b"elsewhere")
    await bus.publish("c", b"heard")

    assert await take(subscription, 1) == [b"heard"]


async def test_waiting_reader_is_woken(bus: Bus) -> None:
    subscription = await bus.subscribe("c")
    reader = asyncio.create_task(take(subscription, 1))
    await asyncio.sleep(0)

    await bus.publish("c", b"now")

    assert await reader == [b"now"]


async def test_closing_ends_a_waiting_reader(bus: Bus) -> None:
    subscription = await bus.subscribe("c")

    async def read_all() -> list[bytes]:
        return [message async for message in subscription]

    reader = asyncio.create_task(read_all())
    await asyncio.sleep(0)
    subscription.close()
    subscription.close()
    await bus.publish("c", b"too late")

    assert await reader == []


async def test_slow_subscriber_loses_the_oldest_and_holds_up_nobody(bus: Bus) -> None:
    slow, quick = await bus.subscribe("c"), await bus.subscribe("c")

    heard = []
    for n in range(BACKLOG + 5):
        await bus.publish("c", b"%d" % n)
        heard += await take(quick, 1)

    assert len(heard) == BACKLOG + 5
    assert (await take(slow, 1), slow.missed, quick.missed) == ([b"5"], 5, 0)


async def test_publishing_without_subscribers_is_fine(bus: Bus) -> None:
    await bus.publish("c", b"nobody")
