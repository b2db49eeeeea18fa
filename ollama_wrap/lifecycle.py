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
from ollama_wrap.config import Anew, Settings, compare
from ollama_wrap.errors import ConfigError
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


Load = Callable[[], Settings]


class Reload:
    """Reads the settings files anew: all of them holds from then on, or nothing of them.

    The environment is what it was when the process began. `prepare` gives what puts
    settings in force, at once and whole; it raises ConfigError where they cannot hold.
    `told` hears `taken` or `refused`.
    """

    def __init__(
        self,
        settings: Settings,
        load: Load,
        prepare: Callable[[Settings], Awaitable[Callable[[], None]]],
        told: Callable[[str], None],
    ) -> None:
        self._running = self._read = settings
        self._load = load
        self._prepare = prepare
        self._told = told
        self._turn = asyncio.Lock()

    def started(self, read: Settings) -> None:
        """The start altered what it had `read`: a port that the system chose, say."""
        self._read = read

    async def __call__(self) -> Anew:
        """Raises ConfigError with every problem; then nothing has changed."""
        async with self._turn:
            try:
                anew = await self._anew()
            except ConfigError as error:
                self._told("refused")
                said = log.get(__name__)
                said.error("settings are not reloaded: the old ones hold", problems=error.text)
                raise
            self._told("taken")
            self._say(anew)
            return anew

    async def _anew(self) -> Anew:
        # Files may be slow, and reading them takes longer than a call should wait.
        new = await asyncio.to_thread(self._load)
        anew = compare(self._read, self._running, new)
        swap = await self._prepare(anew.settings)
        swap()
        if anew.settings.log != self._running.log:
            log.configure(anew.settings.log.level, anew.settings.log.format)
        self._running, self._read = anew.settings, anew.read
        return anew

    def _say(self, anew: Anew) -> None:
        said = log.get(__name__)
        said.info("settings reloaded", changed=", ".join(anew.changed) or "nothing")
        for warning in anew.settings.warnings:
            said.warning(warning)
        if anew.restart:
            said.warning("settings that wait for a restart", settings=", ".join(anew.restart))


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

    def on_signals(self, reload: Callable[[], None] = lambda: None) -> None:
        """Let SIGTERM and SIGINT ask, and SIGHUP `reload`, until the loop is closed."""
        loop = asyncio.get_running_loop()
        if sys.platform != "win32":
            loop.add_signal_handler(signal.SIGHUP, self._hung_up, reload, _at_terminal())
        for number in _ending():
            if sys.platform == "win32":
                # The loop has no signals there, and a handler must not touch it from outside.
                signal.signal(number, lambda came, _: loop.call_soon_threadsafe(self._came, came))
            else:
                loop.add_signal_handler(number, self._came, number)

    def _hung_up(self, reload: Callable[[], None], at_terminal: bool) -> None:  # noqa: FBT001
        # The terminal that it was started from has been closed: that is no wish to reload.
        if at_terminal and not _at_terminal():
            self.ask()
        else:
            reload()

    def _came(self, number: int) -> None:
        self.ask(patient=number == signal.SIGTERM)


async def finish(
    running: Running,
    stop: Stop,
    seconds: float,
    gone: Callable[[], Coroutine[Any, Any, None]] | None = None,
) -> int:
    """Wait until no call is open, at most `seconds` or until it has to be at once; end the rest.

    `gone()` comes back when all clients have gone, where that is to be waited for too.
    Returns how many calls had to be ended.
    """
    if running and seconds:
        log.get(__name__).info("stopping when the open calls have ended", calls=len(running))
    await either((gone or running.emptied)(), stop.at_once.wait(), seconds=seconds)
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


def _at_terminal() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def _ending() -> tuple[signal.Signals, ...]:
    if sys.platform == "win32":
        return (signal.SIGINT, signal.SIGTERM, signal.SIGBREAK)
    return (signal.SIGINT, signal.SIGTERM)
