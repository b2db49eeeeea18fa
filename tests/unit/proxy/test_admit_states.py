"""Places under any order of asking, ending, leaving and nodes that come and go."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ollama_wrap.call import Call, Kind, Priority
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.nodes.verdict import Blame, Verdict
from ollama_wrap.proxy.admit import Admission, Hold, Place, Tried
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.router import Ranking
from tests.fakes.clock import FakeClock
from tests.fakes.nodes import WALL, call, fleet, health, key, upstream

#: turns of the loop that a place takes from one call to the next
TURNS = 8
MODELS = ("m", "n")
ASKED = st.tuples(st.sampled_from("mmmn"), st.sampled_from("abc"), st.booleans())
GOOD, BAD = Verdict(success=True), Verdict(blame=Blame.MODEL)


@dataclass(eq=False)
class Asked:
    """One call: it waits while its task runs, then it has a place, then it has ended."""

    call: Call
    number: int
    task: "asyncio.Task[Place]"
    ended: bool = False
    #: it is in the queue
    joined: bool = False
    #: who waited before it had its place, and waits on
    passed: "list[Asked]" = field(default_factory=list)

    @property
    def waits(self) -> bool:
        return not self.task.done()

    @property
    def runs(self) -> bool:
        return self.at is not None and not self.ended

    @property
    def at(self) -> Upstream | None:
        if self.waits or self.task.cancelled():
            return None
        candidate = self.task.result()[1]
        return None if candidate is None else candidate.upstream

    @property
    def line(self) -> tuple[str | None, str, Priority]:
        """The calls of one caller for one model wait in a line, each urgency in its own."""
        return self.call.model, self.call.caller, self.call.priority

    def goes_before(self, other: "Asked") -> bool:
        """Whether it had to be served before the other, which came later or is less urgent."""
        mine, its = self.call, other.call
        if mine.model != its.model or mine.priority is Priority.LOW is not its.priority:
            return False
        urgent = its.priority is Priority.LOW is not mine.priority
        return urgent or (mine.caller == its.caller and self.number < other.number)

    def has_to_wait_behind(self, other: "Asked") -> bool:
        """Whether it may not have a place while the other, who came before it, waits."""
        urgent = other.call.priority is Priority.LOW is not self.call.priority
        return self.call.model == other.call.model and not urgent


class Places(RuleBasedStateMachine):
    """Two nodes with declared slots; every call may wait."""

    @initialize(slots=st.lists(st.integers(1, 2), min_size=2, max_size=2))
    def start(self, slots: list[int]) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.nodes = [upstream(f"r{n}=h{n}", MODELS, slots=slots[n]) for n in range(2)]
        self.fleets = Fleets(fleet(upstream("local", ()), *self.nodes))
        self.told = 0
        self.settled = True
        self.admission = Admission(self.fleets, self.clock, Hold(seconds=1e6), self._tell)
        self.calls: list[Asked] = []

    def _tell(self, change: int) -> None:
        self.told += change

    def _rank(self, model: str) -> Ranking:
        now, name = self.clock.monotonic(), key(model)
        found = [
            Candidate(one, "policy", 1.0, one.busy(name, now))
            for one in self.nodes
            if one.available(now)
        ]
        found.sort(key=lambda one: one.busy)
        return Ranking(tuple(found), name, holdable=True)

    def _settle(self) -> None:
        """Let everything run that is due; who gets a place notes whom it has passed."""
        self.settled = True
        before = [one for one in self.calls if one.waits]
        self.loop.run_until_complete(_turns())
        passed = [one for one in before if one.waits and one.joined]
        served = {one.line for one in before if one.runs}
        skipped = [one for one in passed if one.line not in served]
        for one in before:
            one.passed = passed if one.runs else []
            if one.runs and not one.joined:
                # Who has just come overtakes nobody but the less urgent, and who had a turn.
                assert not any(one.has_to_wait_behind(other) for other in skipped)
            one.joined = one.waits

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        """As if a callback of the loop did it."""
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def _of(self, model: str, *, waits: bool) -> list[Asked]:
        return [
            one
            for one in self.calls
            if one.call.model == model and (one.waits if waits else one.runs)
        ]

    @rule(asked=st.lists(ASKED, min_size=1, max_size=5), turns=st.booleans())
    def ask(self, asked: list[tuple[str, str, bool]], *, turns: bool) -> None:
        for model, caller, low in asked:
            one = call(model)
            one.kind, one.caller = Kind.INFER, caller
            one.priority = Priority.LOW if low else Priority.MEDIUM
            place = self.admission.place(one, partial(self._rank, model), Tried())
            self.calls.append(Asked(one, len(self.calls), self.loop.create_task(place)))
        self.settled = False
        if turns:
            self._settle()

    @precondition(lambda self: any(one.runs for one in self.calls))
    @rule(count=st.integers(1, 3), verdict=st.sampled_from([GOOD, BAD, None]), turns=st.booleans())
    def end(self, count: int, verdict: Verdict | None, *, turns: bool) -> None:
        now = self.clock.monotonic()
        for one in [one for one in self.calls if one.runs][:count]:
            node, name = one.at, key(one.call.model or "")
            assert node is not None
            one.ended = True
            with self._inside():
                if verdict is not None:
                    node.record(verdict, name, now, WALL)
                node.give(name, now, 1.0 if verdict is GOOD else None)
        self.settled = False
        if turns:
            self._settle()

    @precondition(lambda self: any(one.waits for one in self.calls))
    @rule(which=st.integers(0, 100), turns=st.booleans(), late=st.booleans())
    def leave(self, which: int, *, turns: bool, late: bool) -> None:
        waiting = [one for one in self.calls if one.waits]
        if late:
            # The queue has been looked at, and its task does not know yet.
            self.loop.run_until_complete(asyncio.sleep(0))
        waiting[which % len(waiting)].task.cancel()
        self.settled = False
        if turns:
            self._settle()

    @rule(up=st.booleans())
    def change(self, *, up: bool) -> None:
        with self._inside():
            self.nodes[1].health = health(NodeState.UP if up else NodeState.DOWN)
        self._settle()

    @rule()
    def turn(self) -> None:
        self._settle()

    @precondition(lambda self: self.settled)
    @invariant()
    def places_are_those_of_the_calls_and_no_more_than_there_are(self) -> None:
        for model in MODELS:
            for node in self.nodes:
                here = [one for one in self._of(model, waits=False) if one.at is node]
                assert node.running(key(model)) == len(here) <= node.slots(key(model))[0]
        assert all(one.in_flight >= 0 for one in self.nodes)

    @precondition(lambda self: self.settled)
    @invariant()
    def calls_that_wait_are_all_known_and_no_others(self) -> None:
        waits = sum(one.waits for one in self.calls)
        assert len(self.admission) == self.told == waits
        for model in MODELS:
            assert self.admission.queued(key(model)) == len(self._of(model, waits=True))

    @precondition(lambda self: self.settled)
    @invariant()
    def nobody_waits_while_somebody_is_free(self) -> None:
        now = self.clock.monotonic()
        for model in MODELS:
            free = [
                one for one in self.nodes if one.available(now) and not one.busy(key(model), now)
            ]
            assert not (free and self._of(model, waits=True))

    @precondition(lambda self: self.settled)
    @invariant()
    def nobody_was_overtaken_by_who_came_later_or_has_to_wait_behind(self) -> None:
        for one in self.calls:
            for other in one.passed:
                assert not other.goes_before(one)

    def teardown(self) -> None:
        for one in self.calls:
            if one.waits:
                one.task.cancel()
        self._settle()
        for one in self.calls:
            if one.runs and one.at is not None:
                with self._inside():
                    one.at.give(key(one.call.model or ""), self.clock.monotonic(), None)
        assert [one.in_flight for one in self.nodes] == [0, 0]
        assert (len(self.admission), self.told) == (0, 0)
        self.loop.close()


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=180, stateful_step_count=20, deadline=None)
