"""Places: who gets one, who waits, in which order, and what is given back."""

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from ollama_wrap.call import Call, Kind, Mode, Priority
from ollama_wrap.errors import Overloaded
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy.admit import Admission, Hold, Place, Tried
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.router import Ranking
from tests.fakes.clock import FakeClock, settle
from tests.fakes.nodes import call, fill, fleet, health, key, upstream


class Bench:
    """Two nodes with a slot each, which are ranked by name; free ones first."""

    def __init__(self, hold: Hold | None = None, *, holdable: bool = True) -> None:
        self.clock = FakeClock()
        self.nodes = [upstream(f"r{n}=h{n}", ("m", "n"), slots=1) for n in (1, 2)]
        self.fleets = Fleets(fleet(upstream("local", ()), *self.nodes))
        self.told: list[int] = []
        self.holdable = holdable
        self.rankings = 0
        self.admission = Admission(self.fleets, self.clock, hold or Hold(), self.told.append)

    def rank(self, model: str) -> Ranking:
        self.rankings += 1
        now, name = self.clock.monotonic(), key(model)
        candidates = [
            Candidate(one, "policy", 1.0, one.busy(name, now))
            for one in self.nodes
            if one.available(now)
        ]
        candidates.sort(key=lambda one: one.busy)
        return Ranking(tuple(candidates), name, holdable=self.holdable)

    def ask(
        self, caller: str = "a", model: str = "m", tried: Collection[str] = (), **fields: object
    ) -> "asyncio.Task[Place]":
        asked = call(model)
        asked.caller, asked.kind = caller, Kind.INFER
        for name, value in fields.items():
            setattr(asked, name, value)
        return asyncio.ensure_future(self.place(asked, model, tried))

    async def place(self, asked: Call, model: str, tried: Collection[str]) -> Place:
        return await self.admission.place(asked, lambda: self.rank(model), Tried(set(tried)))

    async def fill(self) -> None:
        for node in self.nodes:
            fill(node)

    async def give(self, node: Upstream, model: str = "m") -> None:
        """A call ends there, and whoever waits is looked at."""
        node.give(key(model), self.clock.monotonic(), None)
        await settle()


def node_of(task: "asyncio.Task[Place]") -> str | None:
    _, candidate = task.result()
    return None if candidate is None else candidate.upstream.node.id


async def test_free_node_is_taken_at_once() -> None:
    bench = Bench()

    first = await bench.ask()
    second = await bench.ask()

    assert [one[1].upstream.node.id for one in (first, second) if one[1]] == ["r1", "r2"]
    assert [one.running(key("m")) for one in bench.nodes] == [1, 1]
    assert bench.told == []


async def test_nobody_left_to_ask_is_said() -> None:
    bench = Bench()

    ranking, candidate = await bench.ask(tried={"r1", "r2"})

    assert (candidate, ranking.key) == (None, key("m"))


async def test_call_waits_for_the_first_that_is_free() -> None:
    bench = Bench()
    await bench.fill()
    waiting = bench.ask()
    await settle()
    assert (waiting.done(), len(bench.admission), bench.told) == (False, 1, [1])

    await bench.give(bench.nodes[1])

    assert node_of(waiting) == "r2"
    assert bench.nodes[1].running(key("m")) == 1
    assert (len(bench.admission), bench.told) == (0, [1, -1])


REASONS = [{"mode": Mode.STANDALONE}, {"mode": Mode.LOCAL}, {"hop": True}, {"kind": Kind.FOLLOW}]


@pytest.mark.parametrize("fields", REASONS)
async def test_call_that_must_not_be_held_is_sent_to_a_busy_node(fields: dict[str, Any]) -> None:
    bench = Bench()
    await bench.fill()

    _, candidate = await bench.ask(**fields)

    assert candidate is not None
    assert candidate.upstream.running(key("m")) == 2


@pytest.mark.parametrize("hold", [Hold(seconds=0), Hold(total=0), Hold(per_key=0)])
async def test_full_queue_sends_a_call_on(hold: Hold) -> None:
    bench = Bench(hold)
    await bench.fill()

    _, candidate = await bench.ask()

    assert candidate is not None


async def test_slots_that_nobody_declared_hold_nothing() -> None:
    bench = Bench(holdable=False)
    await bench.fill()

    _, candidate = await bench.ask()

    assert candidate is not None


async def test_queue_of_a_model_is_counted_apart() -> None:
    bench = Bench(Hold(per_key=1))
    for node in bench.nodes:
        fill(node)
        fill(node, "n")

    calls = [bench.ask(model="m"), bench.ask(model="n"), bench.ask(model="n")]
    await settle()

    assert [one.done() for one in calls] == [False, False, True]
    assert (bench.admission.queued(key("m")), bench.admission.queued(key("n"))) == (1, 1)
    for one in calls:
        one.cancel()
    await settle()
    assert len(bench.admission) == 0


async def test_turns_go_round_between_callers_and_first_come_is_first_served_inside() -> None:
    bench = Bench()
    await bench.fill()
    order: list[str] = []
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        task = bench.ask(caller=name[0])
        task.set_name(name)
        task.add_done_callback(lambda done: order.append(done.get_name()))
        await settle()

    for _ in range(6):
        await bench.give(bench.nodes[0])

    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]


async def test_low_priority_waits_behind_all_others() -> None:
    bench = Bench()
    await bench.fill()
    order: list[str] = []
    for name in ("low1", "a1", "low2", "a2", "b1"):
        low = {"priority": Priority.LOW} if name.startswith("low") else {}
        task = bench.ask(caller=name[0], **low)
        task.set_name(name)
        task.add_done_callback(lambda done: order.append(done.get_name()))
        await settle()

    for _ in range(2):
        for node in bench.nodes:
            node.give(key("m"), 0.0, None)
        await settle()
    await bench.give(bench.nodes[0])

    assert order == ["a1", "b1", "a2", "low1", "low2"]
    assert len(bench.admission) == 0


async def test_call_passes_those_of_low_priority_that_wait_and_none_of_these_passes_it() -> None:
    bench = Bench()
    await bench.fill()
    waiting = bench.ask(priority=Priority.LOW)
    await settle()
    for node in bench.nodes:
        node.give(key("m"), 0.0, None)  # nobody has looked at the queue yet

    usual, low = bench.ask(caller="b"), bench.ask(caller="c", priority=Priority.LOW)
    await settle()

    assert (usual.done(), waiting.done(), low.done()) == (True, True, False)
    low.cancel()


async def test_call_whose_deadline_has_passed_is_not_sent() -> None:
    bench = Bench()
    await bench.fill()
    late = bench.ask(caller="a", deadline=bench.clock.monotonic() + 5.0)
    other = bench.ask(caller="b")
    await settle()
    bench.clock.advance(5.0)

    await bench.give(bench.nodes[0])

    assert (late.done(), node_of(other)) == (False, "r1")
    late.cancel()


async def test_who_stood_behind_one_that_left_is_looked_at() -> None:
    bench = Bench()
    await bench.fill()
    picky = bench.ask(caller="a", tried={"r1"})
    await settle()
    plain = bench.ask(caller="a")
    await settle()
    await bench.give(bench.nodes[0])
    assert not plain.done()

    picky.cancel()
    await settle()

    assert node_of(plain) == "r1"


async def test_two_places_that_become_free_serve_two_callers() -> None:
    bench = Bench()
    await bench.fill()
    calls = [bench.ask(caller=name) for name in "aab"]
    await settle()

    for node in bench.nodes:
        node.give(key("m"), 0.0, None)
    await settle()

    assert [one.done() for one in calls] == [True, False, True]
    assert {node_of(calls[0]), node_of(calls[2])} == {"r1", "r2"}
    calls[1].cancel()


async def test_call_that_comes_later_does_not_overtake_who_waits() -> None:
    bench = Bench()
    await bench.fill()
    early = bench.ask(caller="a")
    await settle()
    bench.nodes[0].give(key("m"), 0.0, None)  # nobody has looked at the queue yet

    late = bench.ask(caller="b")
    await settle()

    assert (node_of(early), late.done()) == ("r1", False)
    late.cancel()


async def test_call_of_another_model_is_not_held_up() -> None:
    bench = Bench()
    await bench.fill()
    waiting = bench.ask(model="m")
    await settle()

    other = await bench.ask(model="n")

    assert other[1] is not None
    assert not waiting.done()
    waiting.cancel()


async def test_call_that_was_tried_somewhere_does_not_hold_up_the_others() -> None:
    bench = Bench()
    await bench.fill()
    picky = bench.ask(caller="a", tried={"r1"})
    plain = bench.ask(caller="b")
    await settle()

    await bench.give(bench.nodes[0])

    assert (picky.done(), node_of(plain)) == (False, "r1")
    picky.cancel()


async def test_waiting_call_is_ranked_anew_when_a_node_changes() -> None:
    bench = Bench()
    await bench.fill()
    waiting = bench.ask()
    await settle()

    for node in bench.nodes:
        node.health = health(NodeState.DOWN)
    await settle()

    assert node_of(waiting) is None


async def test_waiting_call_is_looked_at_when_a_node_is_no_longer_busy_by_its_own_word() -> None:
    bench = Bench()
    for node in bench.nodes:
        node.saturated(bench.clock.monotonic())
    waiting = bench.ask()
    await settle()
    assert not waiting.done()

    bench.clock.advance(5.0)  # nothing tells of that
    async with asyncio.timeout(2.0):
        await waiting

    assert node_of(waiting) == "r1"


async def test_many_changes_in_one_turn_are_looked_at_once() -> None:
    bench = Bench()
    await bench.fill()
    calls = [bench.ask(caller=f"c{number}") for number in range(50)]
    await settle()
    before = bench.rankings

    for _ in range(100):
        bench.fleets.freed.fire()
    await settle()

    assert bench.rankings == before + 1
    for one in calls:
        one.cancel()
    await settle()


async def test_caller_that_leaves_is_forgotten() -> None:
    bench = Bench()
    await bench.fill()
    waiting = bench.ask()
    await settle()

    waiting.cancel()
    await settle()
    await bench.give(bench.nodes[0])

    assert bench.told == [1, -1]
    assert len(bench.admission) == 0
    assert bench.nodes[0].running(key("m")) == 0


async def test_place_of_a_caller_that_leaves_in_the_same_moment_goes_back() -> None:
    bench = Bench()
    await bench.fill()
    waiting = bench.ask()
    await settle()

    bench.nodes[0].give(key("m"), 0.0, None)
    bench.admission._pump()
    waiting.cancel()
    await settle()

    assert waiting.cancelled()
    assert bench.nodes[0].running(key("m")) == 0


async def test_hold_that_passes_sends_the_call_on() -> None:
    bench = Bench(Hold(seconds=0.001))
    await bench.fill()

    _, candidate = await bench.ask()

    assert candidate is not None
    assert candidate.upstream.running(key("m")) == 2
    assert bench.told == [1, -1]


async def test_deadline_that_passes_says_when_to_come_back() -> None:
    bench = Bench()
    await bench.fill()
    for node in bench.nodes:
        node.latency = 30.0
    others = [bench.ask(caller=str(number)) for number in range(3)]
    await settle()

    late = bench.ask(deadline=bench.clock.monotonic() + 0.001)
    with pytest.raises(Overloaded) as caught:
        await late

    assert caught.value.retry_after == 60  # four wait, 30 s each, two slots
    assert [node.running(key("m")) for node in bench.nodes] == [1, 1]
    for one in others:
        one.cancel()
    await settle()


async def test_place_that_comes_with_the_end_of_the_wait_is_not_lost() -> None:
    bench = Bench(Hold(seconds=0.001))
    await bench.fill()
    waiting = bench.ask()
    await settle()
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.01
    bench.nodes[0].give(key("m"), 0.0, None)
    bench.admission._pump()
    while loop.time() < end:
        pass  # the timer of the wait is due in the same turn of the loop as the place

    await waiting

    assert node_of(waiting) == "r1"
    assert [node.running(key("m")) for node in bench.nodes] == [1, 1]
