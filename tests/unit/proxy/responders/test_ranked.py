"""What calls may cost when nodes fail in any order: real attempts at nodes that the test plays."""

import asyncio
import itertools
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_wrap import tasks
from ollama_wrap.call import Kind
from ollama_wrap.errors import AttemptsFailed
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy.admit import Admission, Hold
from ollama_wrap.proxy.budget import Allowance, Budget
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.responders.ranked import Ranked
from ollama_wrap.reply import Reply
from ollama_wrap.routing.router import Router
from ollama_wrap.wire import outbox
from tests.fakes.clock import FakeClock, settle
from tests.fakes.line import wire
from tests.fakes.nodes import call, fleet, health, upstream
from tests.fakes.warm import Node, warm

NODES = 6


def says(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


ENDS = {
    "served": says("200 OK", b'{"done":true}'),
    "own fault": says("400 Bad Request", b"{}"),
    "missing": says("404 Not Found", b'{"error":"model \'m\' not found"}'),
    "busy": says("503 Service Unavailable", b'{"error":"server busy"}'),
    "gateway": says("502 Bad Gateway", b"{}"),
    "out of memory": says("500 Internal Server Error", b'{"error":"out of memory"}'),
    "garbage": b"what?\r\n\r\n",
}
COUNTED = {"gateway", "out of memory", "garbage"}


class Bench:
    """Calls at nodes that each have an idle connection for every call."""

    def __init__(self, count: int, *, slots: int | None = None, hold: float = 60.0) -> None:
        self.nodes = [upstream(f"r{n}=h{n}", slots=slots) for n in range(NODES)]
        fleets = Fleets(fleet(upstream("local", ()), *self.nodes))
        self.wire: Wire = wire(fleets)
        self.budget = Budget(Allowance())
        self.admission = Admission(fleets, self.wire.clock, Hold(hold))
        self.budget.running = count
        clock = self.wire.clock
        assert isinstance(clock, FakeClock)
        self.clock = clock
        self.ranked = Ranked(
            self.wire,
            Router("balanced", "round-robin", "prefer", Random(1)),
            self.admission,
            self.budget,
            lambda: True,
            lambda _: None,
        )
        self.open = [(one, warm(self.wire, one)) for one in self.nodes for _ in range(count)]
        #: what each call was told, by node
        self.refused: list[AttemptsFailed] = []
        self.told: dict[str, list[str]] = {f"id{number}": [] for number in range(count)}
        self.calls = [tasks.start(self._answer(one), one) for one in self.told]

    async def _answer(self, name: str) -> Reply | None:
        asked = call().altered(id=name, kind=Kind.INFER, repeatable=True, target=name.encode())
        try:
            return await self.ranked.answer(asked, None)
        except AttemptsFailed as error:
            self.refused.append(error)
            if isinstance(error.answer, Reply):
                error.answer.close()
            return None

    def asked(self) -> list[tuple[Upstream, Node]]:
        """Who has been asked and has not answered."""
        outbox.of(asyncio.get_running_loop()).flush()
        return [one for one in self.open if one[1].transport.written]

    def answer(self, one: tuple[Upstream, Node], end: str) -> None:
        self.open.remove(one)
        name = one[1].asked.split()[1].decode()
        self.told[name].append(end)
        one[1].says(ENDS[end])

    @property
    def repeating(self) -> int:
        return self.budget.retrying

    async def close(self) -> None:
        for one in self.calls:
            reply = one.result()
            if reply is not None:
                reply.close()
        for _, node in self.open:
            node.connection.drop()
        await settle()


async def some_turns() -> None:
    """What an answer causes takes fewer turns of the loop than anything may."""
    for _ in range(12):
        await asyncio.sleep(0)


async def played(count: int, ends: list[str], *, together: bool) -> Bench:
    """Nodes answer what is written, in a circle, until no call waits."""
    bench = Bench(count)
    script = itertools.cycle(ends)
    await some_turns()
    while not all(one.done() for one in bench.calls):
        asked = bench.asked()
        for one in asked if together else asked[:1]:
            bench.answer(one, next(script))
        await some_turns()
        # Never more at a time than the budget has.
        assert 0 <= bench.repeating <= max(3, 0.2 * count)
        if not asked:
            await bench.clock.run(1.0)
    return bench


def check(bench: Bench) -> None:
    for name, told in bench.told.items():
        assert sum(end in COUNTED for end in told) <= 3, (name, told)
        assert len(told) <= NODES
        # An answer that is one ends it.
        assert not {"served", "own fault"} & set(told[:-1])
    assert bench.budget.retrying == 0
    assert Counter(one.in_flight for one in bench.nodes) == {0: NODES}


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 20),
    ends=st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=9),
    together=st.booleans(),
)
def test_attempts_stay_within_the_budget_whatever_fails(
    count: int, ends: list[str], *, together: bool
) -> None:
    async def play() -> None:
        bench = await played(count, ends, together=together)
        await bench.close()
        check(bench)

    asyncio.run(play())


async def test_nodes_that_fail_each_time_are_asked_three_times_for_a_call() -> None:
    bench = await played(1, ["gateway"], together=True)
    await bench.close()

    assert bench.told == {"id0": ["gateway"] * 3}


async def test_nodes_that_did_no_work_are_all_asked() -> None:
    bench = await played(1, ["busy"], together=True)
    await bench.close()

    assert bench.told == {"id0": ["busy"] * NODES}


async def test_load_of_twenty_minutes_is_waited_for_while_the_node_is_thought_to_live() -> None:
    bench = Bench(2)
    await some_turns()
    asked = bench.asked()

    await bench.clock.run(1200.0)
    waited = [one.done() for one in bench.calls]
    again = bench.asked()
    for one in asked:
        bench.answer(one, "served")
    await some_turns()
    await bench.close()

    assert (waited, again) == ([False, False], asked)
    assert set(map(tuple, bench.told.values())) == {("served",)}


async def test_call_at_a_node_that_goes_down_stays_until_another_can_take_it() -> None:
    bench = Bench(1)
    await some_turns()
    ((first, _),) = bench.asked()
    others = [one for one in bench.nodes if one is not first]
    for one in (*others, first):
        one.health = health(NodeState.DOWN)
    await some_turns()
    alone = [node for node, _ in bench.asked()]

    others[2].health = health(NodeState.UP)
    await some_turns()
    (moved,) = [one for one in bench.asked() if not one[1].transport.gone]
    bench.answer(moved, "served")
    await some_turns()
    await bench.close()

    assert (alone, moved[0]) == ([first], others[2])
    assert bench.told == {"id0": ["served"]}


async def all_busy(**settings: Any) -> Bench:
    """One call, and each node has said that it is busy."""
    bench = Bench(1, **settings)
    for _ in range(NODES):
        await some_turns()
        bench.answer(bench.asked()[0], "busy")
    await some_turns()
    return bench


async def test_call_that_no_node_had_time_for_waits_and_asks_again() -> None:
    bench = await all_busy(slots=1)
    # The pool of each has another connection by then.
    bench.open = [(one, warm(bench.wire, one)) for one in bench.nodes]
    waited = len(bench.admission)

    await bench.clock.run(5.0)
    async with asyncio.timeout(2.0):
        while not bench.asked():
            await asyncio.sleep(0.01)
    bench.answer(bench.asked()[0], "served")
    await some_turns()
    (reply,) = [one.result() for one in bench.calls]
    await bench.close()

    assert waited == 1
    assert bench.told == {"id0": ["busy"] * NODES + ["served"]}
    assert reply is not None
    assert reply.status == 200


@pytest.mark.parametrize("settings", [{"slots": 1, "hold": 0.01}, {"slots": None}])
async def test_word_of_the_first_is_the_answer_where_nothing_may_be_held_any_more(
    settings: dict[str, Any],
) -> None:
    bench = await all_busy(**settings)

    async with asyncio.timeout(2.0):
        await asyncio.wait(bench.calls)
    answers = [one.attempts for one in bench.refused]
    await bench.close()

    assert bench.told == {"id0": ["busy"] * NODES}
    assert [[word for _, word in one] for one in answers] == [["busy"] * NODES]


async def test_storm_is_answered_with_few_attempts_more_than_there_are_calls() -> None:
    bench = await played(40, ["gateway"], together=True)
    await bench.close()

    # A fifth of them at a time, and each two times more at most.
    assert sum(map(len, bench.told.values())) <= 40 + 2 * 8
