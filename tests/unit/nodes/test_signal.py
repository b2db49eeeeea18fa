import asyncio

import pytest

from ollama_wrap.nodes.signal import Signal


def test_subscribers_are_called_in_order_and_once_each() -> None:
    signal, heard = Signal(), list[str]()

    def one() -> None:
        heard.append("one")

    signal.subscribe(one)
    signal.subscribe(lambda: heard.append("two"))
    signal.subscribe(one)
    signal.fire()

    assert heard == ["one", "two"]


def test_who_unsubscribes_hears_no_more() -> None:
    signal, heard = Signal(), list[int]()

    def one() -> None:
        heard.append(1)
        signal.unsubscribe(one)

    signal.subscribe(one)
    signal.fire()
    signal.fire()
    signal.unsubscribe(one)

    assert heard == [1]


async def test_every_waiter_wakes_at_the_next_fire() -> None:
    signal = Signal()
    waiters = [asyncio.ensure_future(signal.wait()) for _ in range(3)]
    await asyncio.sleep(0)

    signal.fire()
    signal.fire()

    assert await asyncio.gather(*waiters) == [None] * 3


async def test_fire_before_the_wait_is_not_remembered() -> None:
    signal = Signal()
    signal.fire()
    waiter = asyncio.ensure_future(signal.wait())
    await asyncio.sleep(0)

    assert not waiter.done()

    signal.fire()
    await waiter


async def test_waiter_that_is_cancelled_leaves_the_others() -> None:
    signal = Signal()
    gone, stays = asyncio.ensure_future(signal.wait()), asyncio.ensure_future(signal.wait())
    await asyncio.sleep(0)

    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    signal.fire()

    await stays
