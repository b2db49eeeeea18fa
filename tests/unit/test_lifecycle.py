import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ollama_wrap import tasks
from ollama_wrap.call import Call
from ollama_wrap.config import Settings
from ollama_wrap.errors import ConfigError
from ollama_wrap.lifecycle import Loops, Reload, Stop, either, finish, interruptible
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


# ---------------------------------------------------------------- other settings


class Files:
    """Settings files, and a program that obeys them."""

    def __init__(self, **given: Any) -> None:
        self.said = Settings.model_validate(given)
        self.in_force = self.said
        self.refuses: list[str] = []
        self.told: list[str] = []
        self.reload = Reload(self.said, self.load, self.prepare, self.told.append)

    def load(self) -> Settings:
        return self.said

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        if self.refuses:
            raise ConfigError(self.refuses)

        def obey() -> None:
            self.in_force = settings

        return obey

    def write(self, **given: Any) -> None:
        self.said = Settings.model_validate(given)


async def test_settings_that_were_read_anew_are_in_force() -> None:
    files = Files()
    files.write(cache={"ttl": 7})

    anew = await files.reload()

    assert anew.changed == ("cache.ttl",)
    assert files.in_force.cache.ttl == 7
    assert files.told == ["taken"]


async def test_settings_that_are_refused_leave_all_as_it_was_until_they_are_right() -> None:
    files = Files()
    before = files.in_force
    files.write(cache={"ttl": 7})
    files.refuses = ["no"]

    with pytest.raises(ConfigError):
        await files.reload()
    kept = files.in_force
    files.refuses = []
    anew = await files.reload()

    assert kept is before
    assert anew.changed == ("cache.ttl",)
    assert files.told == ["refused", "taken"]


async def test_two_reloads_at_once_come_one_after_the_other() -> None:
    files = Files()
    files.write(cache={"ttl": 7})

    first, second = await asyncio.gather(files.reload(), files.reload())

    assert (first.changed, second.changed) == (("cache.ttl",), ())


async def test_what_the_start_altered_is_no_change() -> None:
    files = Files(server={"listen": "127.0.0.1:4711"})
    files.write(server={"listen": "127.0.0.1:0"})
    files.reload.started(files.said)

    anew = await files.reload()

    assert (anew.changed, anew.restart) == ((), ())
    assert str(files.in_force.server.listen[0]) == "127.0.0.1:4711"


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
async def test_hangup_reloads_and_does_not_end() -> None:
    stop, reloads = Stop(), list[None]()
    stop.on_signals(lambda: reloads.append(None))

    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)

    assert (len(reloads), stop.asked.is_set()) == (1, False)


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


async def test_end_waits_for_clients_that_still_read_what_was_answered() -> None:
    running, stop, read = Running(), Stop(), asyncio.Event()

    async def gone() -> None:
        await read.wait()

    ending = asyncio.ensure_future(finish(running, stop, 60, gone))
    await asyncio.sleep(0.01)
    waiting = not ending.done()
    read.set()

    assert await ending == 0
    assert waiting


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
