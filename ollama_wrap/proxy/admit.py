"""A Place at an upstream: takes one, or waits and ranks again when something changed.

Busy is a reason to go elsewhere, never to refuse. A call waits here only where
it could still move: more than one node could take it, and the slots of all of
them are known. For each model turns go round between callers; inside, first
come, first served.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from ollama_wrap.call import Call, Mode
from ollama_wrap.clock import Clock
from ollama_wrap.errors import Overloaded
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.router import Ranking

Rank = Callable[[], Ranking]
Place = tuple[Ranking, Candidate | None]


@dataclass(frozen=True, slots=True)
class Hold:
    """How long a call waits here (seconds), and how many may: for one model, and in all."""

    seconds: float = 60.0
    per_key: int = 128
    total: int = 512


@dataclass(slots=True, eq=False)
class _Waiter:
    """One waiting call. `place` is set to what it got; None: nobody is left to ask."""

    rank: Rank
    tried: Collection[str]
    place: "asyncio.Future[Place]"
    #: could use whatever another of its model could
    plain: bool


@dataclass(slots=True)
class _Queue:
    """The calls that wait for one model, by caller; whose turn it is stands first."""

    callers: "OrderedDict[str, deque[_Waiter]]" = field(default_factory=OrderedDict)
    size: int = 0


@dataclass(slots=True)
class Admission:
    """Gives places out; whoever gets one gives it back with `upstream.give`."""

    fleets: Fleets
    clock: Clock
    hold: Hold
    #: told +1 and -1 as calls begin and end to wait
    waiting: Callable[[int], None] = lambda _: None
    _queues: dict[str | None, _Queue] = field(default_factory=dict)
    _size: int = 0
    _pump_due: bool = False

    def __post_init__(self) -> None:
        self.fleets.freed.subscribe(self._something_changed)
        self.fleets.changed.subscribe(self._something_changed)

    def __len__(self) -> int:
        return self._size

    def queued(self, key: str | None) -> int:
        """Calls that wait for this model."""
        queue = self._queues.get(key)
        return queue.size if queue is not None else 0

    async def place(self, call: Call, rank: Rank, tried: Collection[str]) -> Place:
        """The next node to ask, its place taken; None: nobody is left.

        Raises Overloaded when the caller's own deadline passes first.
        """
        ranking = rank()
        candidate = _next(ranking, tried)
        # Those who wait already go first, even if a place has just become free.
        ready = candidate is None or not (candidate.busy or ranking.key in self._queues)
        if ready or not self._may_wait(call, ranking):
            return _taken(ranking, candidate)
        # Somebody is free and others wait: they are served first, now.
        if candidate is not None and not candidate.busy:
            self._something_changed()
        return await self._wait(call, rank, ranking, tried)

    def _may_wait(self, call: Call, ranking: Ranking) -> bool:
        return (
            ranking.holdable
            and call.mode is Mode.DISTRIBUTED
            and not call.hop
            and self.hold.seconds > 0
            and self._size < self.hold.total
            and self.queued(ranking.key) < self.hold.per_key
        )

    async def _wait(
        self, call: Call, rank: Rank, ranking: Ranking, tried: Collection[str]
    ) -> Place:
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(rank, tried, future, not tried and not call.forced and not call.side)
        now = self.clock.monotonic()
        until = now + self.hold.seconds
        if call.deadline is not None:
            until = min(until, call.deadline)
        self._join(ranking.key, call.caller, waiter)
        try:
            async with asyncio.timeout(until - now):
                return await future
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()
            # The client's own time is over; ours only means: wait elsewhere.
            if until == call.deadline:
                msg = "no node was free before the deadline of this request"
                asked = [one.upstream for one in ranking.candidates]
                again = retry_after(self.queued(ranking.key), asked, ranking.key)
                raise Overloaded(msg, retry_after=again) from None
            ranking = rank()
            return _taken(ranking, _next(ranking, tried))
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._give_back(future.result())
            raise
        finally:
            self._leave(ranking.key, call.caller, waiter)

    def _give_back(self, place: Place) -> None:
        ranking, candidate = place
        if candidate is not None:
            key = candidate.key(ranking.key)
            candidate.upstream.give(key, self.clock.monotonic(), None)

    # the queue

    def _join(self, key: str | None, caller: str, waiter: _Waiter) -> None:
        queue = self._queues.setdefault(key, _Queue())
        queue.callers.setdefault(caller, deque()).append(waiter)
        queue.size += 1
        self._size += 1
        self.waiting(1)

    def _leave(self, key: str | None, caller: str, waiter: _Waiter) -> None:
        self.waiting(-1)
        queue = self._queues.get(key)
        line = queue.callers.get(caller) if queue is not None else None
        if queue is not None and line is not None and waiter in line:
            line.remove(waiter)
            self._shrink(key, queue, caller)

    def _shrink(self, key: str | None, queue: _Queue, caller: str) -> None:
        queue.size -= 1
        self._size -= 1
        if not queue.callers[caller]:
            del queue.callers[caller]
        if not queue.size:
            del self._queues[key]

    def _something_changed(self) -> None:
        # Several changes in one turn of the loop are looked at once.
        if self._size and not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        for key, queue in tuple(self._queues.items()):
            self._serve_key(key, queue)

    def _serve_key(self, key: str | None, queue: _Queue) -> None:
        full = False
        for caller in tuple(queue.callers):
            line = queue.callers[caller]
            # If one could not be served, none of its sort can.
            if full and line[0].plain:
                continue
            if self._serve(line[0]):
                line.popleft()
                queue.callers.move_to_end(caller)
                self._shrink(key, queue, caller)
                self._something_changed()
            else:
                full = full or line[0].plain

    def _serve(self, waiter: _Waiter) -> bool:
        if waiter.place.done():
            return True
        ranking = waiter.rank()
        candidate = _next(ranking, waiter.tried)
        if candidate is not None and candidate.busy and ranking.holdable:
            return False
        waiter.place.set_result(_taken(ranking, candidate))
        return True


def retry_after(waiting: int, upstreams: Iterable[Upstream], key: str | None) -> int:
    """When it is worth asking again, in whole seconds, 1 to 60.

    The calls that wait, times the mean service time, by the slots that all have.
    """
    slots, times = 0, list[float]()
    for one in upstreams:
        slots += one.slots(key)[0]
        times.append(one.latency or 0.0)
    mean = sum(times) / max(1, len(times))
    return max(1, min(60, round(waiting * mean / max(1, slots))))


def _next(ranking: Ranking, tried: Collection[str]) -> Candidate | None:
    for candidate in ranking.candidates:
        if candidate.upstream.node.id not in tried:
            return candidate
    return None


def _taken(ranking: Ranking, candidate: Candidate | None) -> Place:
    if candidate is not None:
        candidate.upstream.take(candidate.key(ranking.key))
    return ranking, candidate
