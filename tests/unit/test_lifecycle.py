import asyncio
import os
import signal
import sys

import pytest

from ollama_wrap import tasks
from ollama_wrap.call import Call
from ollama_wrap.lifecycle import Loops, Stop, either, finish, interruptible
from ollama_wrap.proxy.running import Open, Running
from ollama_wrap.proxy.tap import Tap

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


class Work:
    """An open call that goes on until it is cancelled or told to end."""

    def __init__(self, running: Running) -> None:
        self.cancelled = False
        self._running = running
        self._end = asyncio.Event()
        self.task = tasks.start(self._go(), "work")
        call = Call("1", "GET", b"/", "/", [], {})
        self.one: Open = running.add(call, self.task.cancel, Tap(lambda: 0.0, keep=0), 0.0)

    async def _go(self) -> None:
        try:
            await self._end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
        self._running.remove(self.one)

    def end(self) -> None:
        self._end.set()


async def started(running: Running) -> Work:
    work = Work(running)
    await asyncio.sleep(0)
    return work


# ---------------------------------------------------------------- loops


async def test_loops_start_in_order_and_stop_before_what_they_use() -> None:
    told: list[str] = []

    async def step(word: str) -> None:
        told.append(word)

    async def work() -> None:
        told.append("works")
        try:
            await asyncio.Event().wait()
        finally:
            told.append("stopped")

    loops = Loops([lambda: step("first"), lambda: step("second")], {"w": work}, [lambda: step("z")])
    await loops.start()
    await asyncio.sleep(0)
    await loops.stop()

    assert told == ["first", "second", "works", "stopped", "z"]


async def test_part_that_fails_to_stop_does_not_keep_the_next_from_stopping() -> None:
    told: list[str] = []

    async def fails() -> None:
        raise OSError("no")

    async def stops() -> None:
        told.append("stopped")

    await Loops([], {}, [fails, stops]).stop()

    assert told == ["stopped"]


# ---------------------------------------------------------------- the wish to end


async def test_second_wish_means_at_once_and_the_first_code_holds() -> None:
    stop = Stop()

    stop.ask(78)
    once = stop.at_once.is_set()
    stop.ask(0)

    assert (once, stop.at_once.is_set(), stop.code) == (False, True, 78)


@POSIX
@pytest.mark.parametrize("number, patient", [(signal.SIGTERM, True), (signal.SIGINT, False)])
async def test_signal_asks_for_the_end_and_only_sigterm_is_patient(
    number: int, patient: bool
) -> None:
    stop = Stop()
    stop.on_signals()

    os.kill(os.getpid(), number)
    await stop.asked.wait()
    loop = asyncio.get_running_loop()
    loop.remove_signal_handler(signal.SIGTERM)
    loop.remove_signal_handler(signal.SIGINT)

    assert (stop.patient, stop.code) == (patient, 0)


@POSIX
def test_sigterm_ends_a_program_without_a_loop_through_its_finally() -> None:
    ended = False

    def program() -> None:
        nonlocal ended
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            ended = True

    with interruptible(), pytest.raises(KeyboardInterrupt):
        program()

    assert ended
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# ---------------------------------------------------------------- open calls


async def test_open_calls_may_end_by_themselves() -> None:
    running, stop = Running(), Stop()
    work = await started(running)
    ending = asyncio.ensure_future(finish(running, stop, 60))
    await asyncio.sleep(0)

    work.end()

    assert await ending == 0
    assert not work.cancelled


async def test_open_calls_are_ended_when_their_time_is_over() -> None:
    running = Running()
    works = [await started(running), await started(running)]

    assert await finish(running, Stop(), 0) == 2
    assert all(work.cancelled for work in works)
    assert not running


async def test_open_calls_are_ended_when_it_has_to_be_at_once() -> None:
    running, stop = Running(), Stop()
    work = await started(running)
    ending = asyncio.ensure_future(finish(running, stop, 60))
    stop.ask()
    stop.ask()

    assert await ending == 1
    assert work.cancelled


async def test_waiting_for_either_leaves_nothing_behind() -> None:
    before = tasks.running()
    done = asyncio.Event()
    done.set()

    await either(asyncio.Event().wait(), done.wait(), seconds=60)

    assert tasks.running() == before
