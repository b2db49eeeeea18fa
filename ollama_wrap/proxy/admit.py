"""A Place at an upstream: takes one, or waits and ranks again when something changed.

Busy is a reason to go elsewhere, never to refuse. A call waits here only where
it could still move: more than one node could take it, and the slots of all of
them are known. Turns go round between callers; inside, first come, first served.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ollama_wrap.call import Call, Mode
from ollama_wrap.clock import Clock
from ollama_wrap.errors import Overloaded
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.router import Ranking

Rank = Callable[[], Ranking]


@dataclass(frozen=True, slots=True)
class Hold:
    """How long a call waits here (seconds), and how many may: for one model, and in all."""

    seconds: float = 60.0
    per_key: int = 128
    total: int = 512


@dataclass(slots=True, eq=False)
class _Waiter:
    """One waiting call. `place` is set to what it got; None: nobody is left to ask."""

    key: str | None
    rank: Rank
    tried: Collection[str]
    place: "asyncio.Future[tuple[Ranking, Candidate | None]]"


@dataclass(slots=True)
class Admission:
    """Gives places out; whoever gets one gives it back with `upstream.give`."""

    fleets: Fleets
    clock: Clock
    hold: Hold
    #: told +1 and -1 as calls begin and end to wait
    waiting: Callable[[int], None] = lambda _: None
    _queues: "OrderedDict[str, deque[_Waiter]]" = field(default_factory=OrderedDict)
    _pump_due: bool = False

    def __post_init__(self) -> None:
        self.fleets.freed.subscribe(self._something_changed)
        self.fleets.changed.subscribe(self._something_changed)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def queued(self, key: str | None) -> int:
        """Calls that wait for this model."""
        return sum(waiter.key == key for queue in self._queues.values() for waiter in queue)

    async def place(
        self, call: Call, rank: Rank, tried: Collection[str]
    ) -> tuple[Ranking, Candidate | None]:
        """The next node to ask, its place taken; None: nobody is left.

        Raises Overloaded when the caller's own deadline passes first.
        """
        ranking = rank()
        candidate = _next(ranking, tried)
        if candidate is None or not candidate.busy or not self._may_wait(call, ranking):
            return _taken(ranking, candidate)
        return await self._wait(call, rank, ranking.key, tried)

    def _may_wait(self, call: Call, ranking: Ranking) -> bool:
        return (
            ranking.holdable
            and call.mode is Mode.DISTRIBUTED
            and not call.hop
            and self.hold.seconds > 0
            and len(self) < self.hold.total
            and self.queued(ranking.key) < self.hold.per_key
        )

    async def _wait(
        self, call: Call, rank: Rank, key: str | None, tried: Collection[str]
    ) -> tuple[Ranking, Candidate | None]:
        future = asyncio.get_running_loop().create_future()
        waiter = _Waiter(key, rank, tried, future)
        now = self.clock.monotonic()
        until = now + self.hold.seconds
        self._queues.setdefault(call.caller, deque()).append(waiter)
        self.waiting(1)
        try:
            async with asyncio.timeout(min(until, call.deadline or until) - now):
                return await future
        except TimeoutError:
            if call.deadline is not None and call.deadline <= until:
                msg = "no node was free before the deadline of this request"
                raise Overloaded(msg, retry_after=1) from None
            ranking = rank()
            return _taken(ranking, _next(ranking, tried))
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give_back(future.result())
            raise
        finally:
            self.waiting(-1)
            self._forget(call.caller, waiter)

    def _give_back(self, got: tuple[Ranking, Candidate | None]) -> None:
        ranking, candidate = got
        if candidate is not None:
            candidate.upstream.give(ranking.key, self.clock.monotonic(), None)

    def _forget(self, caller: str, waiter: _Waiter) -> None:
        queue = self._queues.get(caller)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
        if not queue:
            self._queues.pop(caller, None)

    def _something_changed(self) -> None:
        # Several changes in one turn of the loop are looked at once.
        if self._queues and not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        for caller in tuple(self._queues):
            queue = self._queues[caller]
            if queue and self._serve(queue[0]):
                queue.popleft()
                self._queues.move_to_end(caller)
                self._something_changed()

    def _serve(self, waiter: _Waiter) -> bool:
        if waiter.place.done():
            return True
        ranking = waiter.rank()
        candidate = _next(ranking, waiter.tried)
        if candidate is not None and candidate.busy and ranking.holdable:
            return False
        waiter.place.set_result(_taken(ranking, candidate))
        return True


def _next(ranking: Ranking, tried: Collection[str]) -> Candidate | None:
    for candidate in ranking.candidates:
        if candidate.upstream.node.id not in tried:
            return candidate
    return None


def _taken(ranking: Ranking, candidate: Candidate | None) -> tuple[Ranking, Candidate | None]:
    if candidate is not None:
        candidate.upstream.take(ranking.key)
    return ranking, candidate
