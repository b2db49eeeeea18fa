"""Who learns what from the end of an attempt."""

from functools import partial

import pytest

from ollama_wrap.call import Call, Kind
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.proxy import outcome
from ollama_wrap.proxy.lesson import learn
from ollama_wrap.proxy.outcome import Outcome
from tests.fakes.line import wire
from tests.fakes.nodes import call, fleet, key, upstream

M = key("m")
LONG = b'{"model":"m","options":{"num_ctx":99999}}'


class Bench:
    def __init__(self) -> None:
        self.node = upstream("r1=h1")
        self.refreshed: list[str] = []
        self.wire = wire(Fleets(fleet(upstream("local"), self.node)), self.refreshed)
        self.suspected: list[str] = []
        self.wire.suspect = self.suspected.append

    def learn(self, end: Outcome, asked: Call | None = None) -> None:
        asked = asked or call().altered(kind=Kind.INFER, body=b"{}")
        learn(self.wire, asked, self.node, M, end)

    @property
    def now(self) -> float:
        return self.wire.clock.monotonic()


@pytest.mark.parametrize(
    "end, suspected, refreshed",
    [
        (outcome.SERVED, [], []),
        (outcome.CONNECT, ["r1"], []),
        (outcome.GATEWAY, ["r1"], []),
        (outcome.BAD, [], []),
        (outcome.MISSING, [], ["r1"]),
        (outcome.DRAINED, [], ["r1"]),
        (outcome.OOM, [], []),
    ],
)
def test_node_is_looked_at_where_there_is_doubt(
    end: Outcome, suspected: list[str], refreshed: list[str]
) -> None:
    bench = Bench()

    bench.learn(end)

    assert (bench.suspected, bench.refreshed) == (suspected, refreshed)
    assert (bench.node.state is NodeState.SUSPECT) is bool(suspected)


def test_node_that_said_it_is_busy_is_and_that_is_no_failure() -> None:
    bench = Bench()

    bench.learn(outcome.BUSY)

    assert bench.node.busy(M, bench.now)
    assert bench.node.circuit.fails == 0


def test_route_that_a_node_lacks_is_remembered() -> None:
    bench = Bench()
    told: list[None] = []
    bench.node.changed.subscribe(lambda: told.append(None))

    bench.learn(outcome.NO_ROUTE)

    assert bench.node.lacking == {"chat"}
    assert told == [None]


def test_model_is_blamed_with_its_options_and_only_by_what_runs_it() -> None:
    bench = Bench()
    asked = call().altered(kind=Kind.INFER, body=LONG)
    shown = call().altered(kind=Kind.FOLLOW, body=LONG)

    bench.learn(outcome.OOM_AT_LOAD, asked)
    bench.learn(outcome.SERVED, shown)

    options = ("", "num_ctx=99999")
    cooling = [bench.node.cooling(M, bench.now, partial(str, one)) for one in options]
    assert cooling == [False, True]
    bench.learn(outcome.SERVED, asked)
    assert not bench.node.cooling(M, bench.now)
