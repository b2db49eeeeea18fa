"""A Place at an upstream: takes one, or waits and ranks again when something changed.

Busy is a reason to go elsewhere, never to refuse. A call waits here only where
it could still move: more than one node could take it, and the slots of all of
them are known. For each model turns go round between callers; inside, first
come, first served. Calls of low priority wait behind all others.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from ollama_wrap.call import Call, Kind, Mode, Priority
from ollama_wrap.clock import Clock
from ollama_wrap.errors import Overloaded
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.router import Ranking

#: Seconds after which those who wait are looked at though nothing was heard: that a node said
#: it is busy, and that a circuit is open, ends with time alone.
LOOK = 0.25

Rank = Callable[[], Ranking]
Place = tuple[Ranking, Candidate | None]


@dataclass(frozen=True, slots=True)
class Hold:
    """How long a call waits here (seconds), and how many may: for one model, and in all."""

    seconds: float = 60.0
    per_key: int = 128
    total: int = 512


@dataclass(slots=True)
class Tried:
    """The nodes that a call is not sent to: asked already, or, until it has waited, busy.

    `until`: how long it may wait here in all, monotonic; set when it first does.
    """

    asked: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    until: float | None = None

    def __contains__(self, node: object) -> bool:
        return node in self.asked or node in self.busy

    def went_to(self, node: str) -> None:
        """It is asked now."""
        self.asked.add(node)
        self.busy.discard(node)

    def was_busy(self, node: str) -> None:
        """It said so, and did nothing."""
        self.asked.discard(node)
        self.busy.add(node)


@dataclass(slots=True, eq=False)
class _Waiter:
    """One waiting call. `place` is set to what it got; None: nobody is left to ask."""

    rank: Rank
    tried: Tried
    place: "asyncio.Future[Place]"
    #: could use whatever another of its model could
    plain: bool
    #: monotonic; what is past it is not sent any more
    deadline: float


#: the calls of each caller; whose turn it is stands first
_Turns = OrderedDict[str, deque[_Waiter]]


@dataclass(slots=True)
class _Queue:
    """The calls that wait for one model."""

    usual: _Turns = field(default_factory=OrderedDict)
    low: _Turns = field(default_factory=OrderedDict)
    size: int = 0

    def turns(self, call: Call) -> _Turns:
        """Those among which a call waits."""
        return self.low if call.priority is Priority.LOW else self.usual

    def before(self, call: Call) -> bool:
        """Whether somebody who waits goes before a call that comes now."""
        return bool(self.usual or self.turns(call))


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
    _looking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return self._size

    def queued(self, key: str | None) -> int:
        """Calls that wait for this model."""
        queue = self._queues.get(key)
        return queue.size if queue is not None else 0

    async def place(self, call: Call, rank: Rank, tried: Tried) -> Place:
        """The next node to ask, its place taken; None: nobody is left.

        Those that said they are busy may be asked again once the call has waited.

        Raises Overloaded when the caller's own deadline passes first.
        """
        ranking = rank()
        candidate = _next(ranking, tried)
        if candidate is None:
            # All that are left have said that they are busy.
            ready = _next(ranking, tried.asked) is None
        else:
            # Those who wait already go first, even if a place has just become free.
            ready = not (candidate.busy or self._behind(call, ranking.key))
        if ready or not self._may_wait(call, ranking, tried):
            return _taken(ranking, candidate)
        # Somebody is free and others wait: they are served first, now.
        if candidate is not None and not candidate.busy:
            self._something_changed()
        return await self._wait(call, rank, ranking, tried)

    def _behind(self, call: Call, key: str | None) -> bool:
        queue = self._queues.get(key)
        return queue is not None and queue.before(call)

    def _may_wait(self, call: Call, ranking: Ranking, tried: Tried) -> bool:
        return (
            ranking.holdable
            and call.kind is Kind.INFER
            and call.mode is Mode.DISTRIBUTED
            and not call.hop
            and self.hold.seconds > 0
            and (tried.until is None or self.clock.monotonic() < tried.until)
            and self._size < self.hold.total
            and self.queued(ranking.key) < self.hold.per_key
        )

    async def _wait(self, call: Call, rank: Rank, ranking: Ranking, tried: Tried) -> Place:
        future: asyncio.Future[Place] = asyncio.get_running_loop().create_future()
        plain = not tried.asked and not call.forced and not call.side
        now = self.clock.monotonic()
        deadline = math.inf if call.deadline is None else call.deadline
        tried.until = now + self.hold.seconds if tried.until is None else tried.until
        until = min(tried.until, deadline)
        waiter = _Waiter(rank, tried, future, plain, deadline)
        self._join(ranking.key, call, waiter)
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
            self._leave(ranking.key, call, waiter)

    def _give_back(self, place: Place) -> None:
        ranking, candidate = place
        if candidate is not None:
            key = candidate.key(ranking.key)
            candidate.upstream.give(key, self.clock.monotonic(), None)

    # the queue

    def _join(self, key: str | None, call: Call, waiter: _Waiter) -> None:
        queue = self._queues.setdefault(key, _Queue())
        queue.turns(call).setdefault(call.caller, deque()).append(waiter)
        queue.size += 1
        self._size += 1
        self._listen(on=True)
        self.waiting(1)
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _leave(self, key: str | None, call: Call, waiter: _Waiter) -> None:
        self.waiting(-1)
        queue = self._queues.get(key)
        line = queue.turns(call).get(call.caller) if queue is not None else None
        if queue is not None and line is not None and waiter in line:
            line.remove(waiter)
            self._shrink(key, queue, queue.turns(call), call.caller)
            # Whoever stood behind it may be able to use what it could not.
            self._something_changed()

    def _shrink(self, key: str | None, queue: _Queue, turns: _Turns, caller: str) -> None:
        queue.size -= 1
        self._size -= 1
        if not self._size:
            self._listen(on=False)
        if not turns[caller]:
            del turns[caller]
        if not queue.size:
            del self._queues[key]

    def _listen(self, *, on: bool) -> None:
        # Every call that ends says so: only while somebody waits is there anybody to hear it.
        for signal in (self.fleets.freed, self.fleets.changed):
            (signal.subscribe if on else signal.unsubscribe)(self._something_changed)

    def _something_changed(self) -> None:
        # Several changes in one turn of the loop are looked at once.
        if self._size and not self._pump_due:
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _look(self) -> None:
        self._looking = None
        if self._size:
            self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)
            self._pump()

    def _pump(self) -> None:
        self._pump_due = False
        for key, queue in tuple(self._queues.items()):
            self._serve_key(key, queue)

    def _serve_key(self, key: str | None, queue: _Queue) -> None:
        full = self._serve_turns(key, queue, queue.usual, full=False)
        # One of each caller is served at a time: the others come first all the same.
        waits = any(one.plain for line in queue.usual.values() for one in line)
        self._serve_turns(key, queue, queue.low, full=full or waits)

    def _serve_turns(self, key: str | None, queue: _Queue, turns: _Turns, *, full: bool) -> bool:
        """Serve the first of each caller; True: what any call could use is taken."""
        now = self.clock.monotonic()
        for caller in tuple(turns):
            line = turns[caller]
            # If one could not be served, none of its sort can; one whose time is over says so.
            if (full and line[0].plain) or line[0].deadline <= now:
                continue
            if self._serve(line[0]):
                line.popleft()
                turns.move_to_end(caller)
                self._shrink(key, queue, turns, caller)
                self._something_changed()
            else:
                full = full or line[0].plain
        return full

    def _serve(self, waiter: _Waiter) -> bool:
        if waiter.place.done():
            return True
        ranking = waiter.rank()
        candidate = _next(ranking, waiter.tried.asked)
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


def _next(ranking: Ranking, tried: Container[str]) -> Candidate | None:
    for candidate in ranking.candidates:
        if candidate.upstream.node.id not in tried:
            return candidate
    return None


def _taken(ranking: Ranking, candidate: Candidate | None) -> Place:
    if candidate is not None:
        candidate.upstream.take(candidate.key(ranking.key))
    return ranking, candidate
