"""What is loaded, what is loading, and who waits for which.

Owns: one load at a time, the load queue, slots per loaded model, keep-alive, eviction.
Must not know: HTTP, or what is said.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ollama_wrap.testing.errors import Refused
from ollama_wrap.testing.ledger import Ledger
from ollama_wrap.testing.script import BUSY, Failure
from ollama_wrap.testing.store import Model

#: Seconds of a negative keep-alive: the longest that Go's Duration holds
FOREVER = 9_223_372_036.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of stock's scheduler. Times in seconds."""

    num_parallel: int = 1
    max_queue: int = 512
    max_loaded: int = 3
    keep_alive: float = 300.0
    load_delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request wants to run on: a model, loaded with these options."""

    model: Model
    keep_alive: float | None = None
    options: tuple[tuple[str, str], ...] = ()
    load_delay: float | None = None
    failure: Failure | None = None


class Runner:
    """One loaded model: its slots, its users, and when it goes."""

    def __init__(self, wish: Wish, keep_alive: float, slots: int) -> None:
        self.model = wish.model
        self.options = wish.options
        self.slots = asyncio.Semaphore(slots)
        self.keep_alive = keep_alive
        self.users = 0
        self.idle = asyncio.Event()
        #: When it last became idle; None while its first request runs
        self.ended: datetime | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def expires(self) -> datetime:
        """As /api/ps shows it: moves while the first request runs, then only when idle."""
        start = self.ended or datetime.now(UTC)
        return start + timedelta(seconds=self.keep_alive)


class Scheduler:
    """The runners of one fake node."""

    def __init__(self, limits: Limits, ledger: Ledger) -> None:
        self.limits = limits
        self.runners: dict[str, Runner] = {}
        self._ledger = ledger
        self._loading = asyncio.Lock()
        self._waiting = 0

    @asynccontextmanager
    async def runner(self, wish: Wish) -> AsyncIterator[Runner]:
        """Give a runner for the time of the block; loads it first if need be. Raises Refused."""
        if wish.failure is not None and wish.failure.when == "queue":
            raise Refused(wish.failure.status, wish.failure.text)
        # A load that is to fail is tried even where the model is loaded.
        found = None if wish.failure is not None else self._ready(wish)
        if found is None:
            found = await self._queued(wish)
        found.users += 1
        found.idle.clear()
        if found.timer is not None:
            found.timer.cancel()
        # The last request that says how long decides, as in stock.
        if wish.keep_alive is not None:
            found.keep_alive = wish.keep_alive
        try:
            yield found
        finally:
            found.users -= 1
            if found.users == 0:
                found.ended = datetime.now(UTC)
                found.idle.set()
                self._settle(found)

    def unload(self, model: Model) -> None:
        """Let a model go as soon as it is idle; nothing happens if it is not loaded."""
        runner = self.runners.get(model.weights)
        if runner is not None:
            runner.keep_alive = 0
            if runner.users == 0:
                self._settle(runner)

    def clear(self) -> None:
        """Forget everything that is loaded."""
        for runner in list(self.runners.values()):
            self._drop(runner)

    def _ready(self, wish: Wish) -> Runner | None:
        runner = self.runners.get(wish.model.weights)
        return runner if runner is not None and runner.options == wish.options else None

    async def _queued(self, wish: Wish) -> Runner:
        # The one that loads has left the queue; only those behind it fill it.
        if self._loading.locked() and self._waiting >= self.limits.max_queue:
            raise Refused(BUSY.status, BUSY.text)
        self._waiting += 1
        waits = True
        try:
            async with self._loading:
                self._waiting -= 1
                waits = False
                # Whoever loaded meanwhile may have loaded just this one.
                ready = None if wish.failure is not None else self._ready(wish)
                return ready or await self._load(wish)
        finally:
            self._waiting -= waits

    async def _load(self, wish: Wish) -> Runner:
        if wish.failure is None:
            await self._make_room(wish.model)
        counts = self._ledger.counts
        counts.loads_started += 1
        self._ledger.note()
        delay = self.limits.load_delay if wish.load_delay is None else wish.load_delay
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            counts.loads_cancelled += 1
            self._ledger.note()
            raise
        if wish.failure is not None and wish.failure.when == "load":
            raise Refused(wish.failure.status, wish.failure.text)
        counts.loads_finished += 1
        self._ledger.note()
        # Stock gives embedding models one slot, whatever is set.
        only_embeds = wish.model.capabilities == ("embedding",)
        runner = Runner(
            wish, self.limits.keep_alive, 1 if only_embeds else self.limits.num_parallel
        )
        self.runners[wish.model.weights] = runner
        return runner

    async def _make_room(self, model: Model) -> None:
        """Unload what the load replaces, or the idle one with the shortest keep-alive."""
        same = self.runners.get(model.weights)
        # Other options mean another load of the same weights, in the place of the first.
        if same is None and len(self.runners) < self.limits.max_loaded:
            return
        victims = (
            [same]
            if same is not None
            else sorted(self.runners.values(), key=lambda r: r.keep_alive)
        )
        victim = next((r for r in victims if r.users == 0), victims[0])
        # Nothing is taken from under a request: the load waits for it.
        while victim.users:
            await victim.idle.wait()
        self._drop(victim)

    def _settle(self, runner: Runner) -> None:
        if runner.keep_alive == 0:
            self._drop(runner)
        # One that is to stay for ever needs no timer.
        elif runner.keep_alive < FOREVER:
            loop = asyncio.get_running_loop()
            runner.timer = loop.call_later(runner.keep_alive, self._drop, runner)

    def _drop(self, runner: Runner) -> None:
        if runner.timer is not None:
            runner.timer.cancel()
        if self.runners.get(runner.model.weights) is runner:
            del self.runners[runner.model.weights]
            self._ledger.counts.unloads += 1
            self._ledger.note()
