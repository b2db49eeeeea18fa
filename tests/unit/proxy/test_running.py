"""The open calls."""

import asyncio

from ollama_wrap.call import Call
from ollama_wrap.proxy.running import Open, Running
from ollama_wrap.proxy.tap import Tap
from tests.fakes.clock import FakeClock, settle


def add(running: Running, ended: list[str] | None = None) -> Open:
    call = Call("id", "POST", b"/api/chat", "/api/chat", [])
    cancel = None if ended is None else lambda: ended.append("cancelled")
    return running.add(call, cancel, Tap(FakeClock().monotonic, 0), 0.0)


def test_open_calls_are_listed_oldest_first() -> None:
    running = Running()
    first, second, third = (add(running) for _ in range(3))

    running.remove(second)
    running.remove(second)

    assert running.all() == (first, third)
    assert len(running) == 2
    assert first.number != third.number


def test_call_is_ended_by_its_number() -> None:
    running, ended = Running(), list[str]()
    one = add(running, ended)

    assert running.end(one.number)

    assert ended == ["cancelled"]
    assert one.ended_by_operator


def test_call_that_is_not_there_cannot_be_ended() -> None:
    running = Running()
    without_task = add(running)

    assert not running.end("99")
    assert not running.end(without_task.number)


async def test_emptied_comes_back_with_the_last_call() -> None:
    running = Running()
    first, second = add(running), add(running)
    waiting = asyncio.ensure_future(running.emptied())

    running.remove(first)
    await settle()
    assert not waiting.done()

    running.remove(second)
    await settle()
    assert waiting.done()
