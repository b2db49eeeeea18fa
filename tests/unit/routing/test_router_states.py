"""Who is left out, and who never is, under any order of failures, successes and waits."""

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ollama_wrap.nodes.circuit import CircuitState
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.nodes.verdict import Blame, Verdict
from ollama_wrap.routing.narrow import look
from ollama_wrap.routing.router import Router
from tests.fakes.nodes import NOW, WALL, call, fleet, health, key, upstream

ENDS = {
    "good": Verdict(success=True),
    "transport": Verdict(blame=Blame.NODE),
    "model": Verdict(blame=Blame.MODEL),
    "left": Verdict(),
}
MODES = ("local-first", "balanced", "remote-first")


class Ejection(RuleBasedStateMachine):
    """Calls go where the router says, and end in every way."""

    @initialize(others=st.integers(1, 5), mode=st.sampled_from(MODES), local=st.booleans())
    def start(self, others: int, mode: str, *, local: bool) -> None:
        self.now = NOW
        held = ("m",) if local else ()
        nodes = [upstream(f"r{n}=h{n}") for n in range(others)]
        self.fleet = fleet(upstream("local", held), *nodes)
        self.router = Router(mode, "round-robin", "prefer", Random(1))
        self.running: list[Upstream] = []

    def candidates(self) -> list[Upstream]:
        ranking = self.router.rank(call(), self.fleet, self.now)
        return [one.upstream for one in ranking.candidates]

    @rule(seconds=st.sampled_from([0.1, 5.0, 30.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        for _ in range(count):
            node = self.candidates()[0]
            node.take(key("m"))
            self.running.append(node)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99), end=st.sampled_from(sorted(ENDS)), all_=st.booleans())
    def end(self, which: int, end: str, *, all_: bool) -> None:
        chosen = self.running if all_ else [self.running[which % len(self.running)]]
        for node in list(chosen):
            self.running.remove(node)
            node.record(ENDS[end], key("m"), self.now, WALL)
            node.give(key("m"), self.now, None)

    @rule(which=st.integers(0, 5), state=st.sampled_from(["up", "suspect", "down"]))
    def probe(self, which: int, state: str) -> None:
        nodes = self.fleet.upstreams
        nodes[which % len(nodes)].health = health(NodeState(state))

    @invariant()
    def somebody_is_always_asked(self) -> None:
        found = self.candidates()
        holders = set(self.fleet.holders(key("m")))
        assert found
        assert set(found) <= holders
        assert len(set(found)) == len(found)

    @invariant()
    def at_most_half_of_the_others_are_left_out(self) -> None:
        spared = self.fleet.spared(self.now)
        out = [
            one
            for one in self.fleet.others
            if one.obstacle(self.now) == "circuit-open" and one not in spared
        ]
        assert len(out) <= max(1, len(self.fleet.others) // 2)

    @invariant()
    def node_that_may_be_asked_is_among_them(self) -> None:
        sight = look(call(), key("m"), self.fleet, self.now)
        assert not sight.live or set(self.candidates()) == set(sight.live)

    @invariant()
    def one_that_is_left_out_has_failed(self) -> None:
        for one in self.fleet.upstreams:
            if one.circuit.state(self.now) is not CircuitState.CLOSED:
                assert one.failed_at <= self.now
                assert one.circuit.retry_at is not None
                assert one.circuit.retry_at - one.circuit.opened <= 300.0

    @invariant()
    def places_are_those_of_the_calls(self) -> None:
        for one in self.fleet.upstreams:
            assert one.in_flight == self.running.count(one)


TestEjection = Ejection.TestCase
TestEjection.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
