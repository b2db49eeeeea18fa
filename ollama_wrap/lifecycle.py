"""Starts and stops the loops of a runtime; turns signals into an end.

The only file that knows signals. Must not know what the loops do, nor what a
call is made of.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

from ollama_wrap import tasks
from ollama_wrap.observe import log
from ollama_wrap.proxy.running import Running

#: seconds that a call which was ended may take to write its last word
LAST_WORD = 1.0


@dataclass(slots=True)
class Loops:
    """What a runtime runs, in the order in which it starts.

    `before`: awaited one after the other; `run`: named endless work; `after`:
    awaited in turn when all work has been stopped.
    """

    before: list[Callable[[], Awaitable[None]]]
    run: dict[str, Callable[[], Coroutine[Any, Any, None]]]
    after: list[Callable[[], Awaitable[None]]]
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    async def start(self) -> None:
        """Start everything."""
        for step in self.before:
            await step()
        self._tasks = [tasks.start(work(), name) for name, work in self.run.items()]

    async def stop(self) -> None:
        """Stop everything; a step that fails does not keep the others from stopping."""
        await tasks.stop(*self._tasks)
        for step in self.after:
            try:
                await step()
            except Exception:  # noqa: BLE001  the others must stop too
                log.get(__name__).exception("a part did not stop cleanly")
        log.flush()


class Stop:
    """The wish to end: `asked`, and `at_once` when it is repeated.

    `code` is what the process ends with; `patient`: it began with SIGTERM, from a
    supervisor that tells others first.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        self.patient = False
        self.code = 0

    def ask(self, code: int = 0, *, patient: bool = False) -> None:
        """End; what comes second means at once."""
        if self.asked.is_set():
            self.at_once.set()
            return
        self.code, self.patient = code, patient
        self.asked.set()

    def on_signals(self) -> None:
        """Let SIGTERM and SIGINT ask, until the loop is closed."""
        loop = asyncio.get_running_loop()
        for number in _ending():
            if sys.platform == "win32":
                # The loop has no signals there, and a handler must not touch it from outside.
                signal.signal(number, lambda came, _: loop.call_soon_threadsafe(self._came, came))
            else:
                loop.add_signal_handler(number, self._came, number)

    def _came(self, number: int) -> None:
        self.ask(patient=number == signal.SIGTERM)


async def finish(running: Running, stop: Stop, seconds: float) -> int:
    """Wait until no call is open, at most `seconds` or until it has to be at once; end the rest.

    Returns how many had to be ended.
    """
    if running and seconds:
        log.get(__name__).info("stopping when the open calls have ended", calls=len(running))
    await either(running.emptied(), stop.at_once.wait(), seconds=seconds)
    # What is left is ended as if its client had gone, but visibly.
    left = running.all()
    for one in left:
        if one.cancel is not None:
            one.cancel()
    await either(running.emptied(), seconds=LAST_WORD)
    return len(left)


async def either(*awaited: Coroutine[Any, Any, object], seconds: float) -> None:
    """Come back when the first of them has, or after so many seconds."""
    waiting = [tasks.start(one, "wait") for one in awaited]
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    await tasks.stop(*waiting)


@contextmanager
def interruptible() -> Iterator[None]:
    """For programs without a loop: SIGTERM raises KeyboardInterrupt too, so that `finally` runs."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _ending() -> tuple[signal.Signals, ...]:
    if sys.platform == "win32":
        return (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
    return (signal.SIGINT, signal.SIGTERM)
