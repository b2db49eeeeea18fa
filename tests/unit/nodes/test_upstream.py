from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ollama_wrap.config.groups import Circuit as CircuitRules
from ollama_wrap.config.groups import Health as HealthRules
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.inventory import Inventory
from ollama_wrap.nodes.node import parse_nodes
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.nodes.verdict import Blame, Verdict
from tests.fakes.nodes import NODE_FAILED, NOW, WALL, eject, fill, health, key, listed, upstream

M = key("m")
SUCCESS = Verdict(success=True)
MODEL_FAILED = Verdict(blame=Blame.MODEL)
OUT_OF_MEMORY = Verdict(blame=Blame.MODEL_DOUBLE)


def news(target: Upstream) -> list[str]:
    heard: list[str] = []
    target.changed.subscribe(lambda: heard.append("changed"))
    target.freed.subscribe(lambda: heard.append("freed"))
    return heard


# ---------------------------------------------------------------- available


@pytest.mark.parametrize(
    "state, word",
    [
        (NodeState.UP, None),
        (NodeState.JOINING, None),
        (NodeState.SUSPECT, None),
        (NodeState.WARMING, None),
        (NodeState.DOWN, "node-down"),
        (NodeState.DRAINING, "drained"),
    ],
)
def test_state_says_whether_it_may_be_asked(state: NodeState, word: str | None) -> None:
    node = upstream("r1=h", state=state)

    assert node.obstacle(NOW) == word
    assert node.available(NOW) is (word is None)
    assert node.state_word(NOW) == state.value


def test_local_node_that_is_down_is_called_unhealthy() -> None:
    assert upstream("local", state=NodeState.DOWN).obstacle(NOW) == "local-unhealthy"


@pytest.mark.parametrize(
    "sidecar, state, word",
    [
        (Sidecar("x"), NodeState.UP, None),
        (Sidecar("x", proto=(1, 3)), NodeState.UP, None),
        (Sidecar("x", proto=(2, 3)), NodeState.INCOMPATIBLE, "node-down"),
        (Sidecar("x", proto=(0, 0)), NodeState.INCOMPATIBLE, "node-down"),
        (Sidecar("x", ollama=False), NodeState.DOWN, "node-down"),
        (Sidecar("x", drain=True), NodeState.DRAINING, "drained"),
    ],
)
def test_word_of_its_sidecar_counts(sidecar: Sidecar, state: NodeState, word: str | None) -> None:
    node = upstream("r1=h")

    node.sidecar = sidecar

    assert node.state is state
    assert node.obstacle(NOW) == word
    assert node.routable is (state is not NodeState.INCOMPATIBLE)


def test_sidecar_of_a_node_that_is_down_says_nothing() -> None:
    node = upstream("r1=h", state=NodeState.DOWN)

    node.sidecar = Sidecar("x", drain=True)

    assert node.state is NodeState.DOWN


def test_open_circuit_lets_one_trial_through_after_a_good_probe() -> None:
    node = eject(upstream("r1=h"))
    later = NOW + 13.0

    assert node.obstacle(NOW) == "circuit-open"
    assert node.obstacle(later) is None
    node.take(M)
    assert node.obstacle(later) == "circuit-open"
    node.give(M, later, None)
    assert node.obstacle(later) is None
    node.health = health(NodeState.SUSPECT)
    assert node.obstacle(later) == "circuit-open"
    node.health = replace(health(NodeState.UP), fails=1)
    assert node.obstacle(later) == "circuit-open"


def test_trial_that_said_nothing_makes_room_for_the_next() -> None:
    node = eject(fill(upstream("r1=h")))
    later = NOW + 13.0
    node.take(M)

    node.record(Verdict(), M, later, WALL)

    assert node.in_flight == 2
    assert node.available(later)


def test_circuit_that_closes_lets_the_node_start_slowly() -> None:
    node = eject(upstream("r1=h"))
    heard = news(node)

    node.record(SUCCESS, M, NOW + 13.0, WALL)
    node.record(SUCCESS, M, NOW + 13.0, WALL)

    assert node.state is NodeState.WARMING
    assert node.available(NOW + 13.0)
    assert heard == ["changed"]


def test_only_ollama_speaks_every_dialect_and_is_routed_to() -> None:
    plain, other = upstream("r1=h"), upstream("r2=h;kind=sglang")

    assert [plain.speaks(name) for name in ("ollama", "openai", "anthropic")] == [True] * 3
    assert [other.speaks(name) for name in ("ollama", "openai")] == [False, True]
    assert (plain.routable, other.routable) == (True, False)


@pytest.mark.parametrize(
    "patterns, model, accepted",
    [
        ("", "anything", True),
        ("llama3*", "llama3.2", True),
        ("LLAMA3*", "Llama3.2:1b", True),
        ("llama3.2", "llama3.2", True),
        ("llama3.2", "llama3.2:1b", False),
        ("qwen*|gemma*", "gemma3", True),
        ("qwen*|gemma*", "llama3", False),
        ("me/*", "me/x", True),
        ("registry.ollama.ai/library/*", "x", True),
        ("[ab]?", "b1", True),
    ],
)
def test_patterns_filter_models(patterns: str, model: str, accepted: bool) -> None:
    assert upstream(f"r1=h;models={patterns}").accepts(key(model)) is accepted


# ---------------------------------------------------------------- slots and busy


def test_slots_are_declared_or_reported_or_learned_or_one() -> None:
    declared, reporting, plain = upstream("r1=h", slots=4), upstream("r2=h2"), upstream("r3=h3")
    reporting.sidecar = Sidecar("x", slots=2)
    declared.sidecar = Sidecar("x", slots=2)

    assert (declared.slots(M), reporting.slots(M)) == ((4, True), (2, True))
    assert plain.slots(M) == (1, False)
    plain.learned(M, 3)
    plain.learned(M, 2)
    assert plain.slots(M) == (3, False)
    assert plain.slots(key("other")) == (1, False)


def test_slots_that_are_learned_make_room_and_have_a_limit() -> None:
    node = fill(upstream("r1=h"))
    heard = news(node)

    node.learned(M, 10_000)

    assert heard == ["freed"]
    assert not node.busy(M, NOW)
    assert node.slots(M)[0] == 256


def test_node_is_busy_for_a_model_at_its_slots() -> None:
    node = fill(upstream("r1=h", slots=2), calls=1)

    assert not node.busy(M, NOW)
    fill(node)
    assert node.busy(M, NOW)
    assert not node.busy(key("other"), NOW)
    node.give(M, NOW, None)
    assert not node.busy(M, NOW)


def test_node_that_said_busy_is_left_alone_for_a_moment() -> None:
    node = upstream("r1=h")

    node.saturated(NOW)

    assert node.busy(M, NOW + 0.99)
    assert not node.busy(M, NOW + 5.0)


@pytest.mark.parametrize(
    "sidecar, busy",
    [
        (Sidecar("x", slots=2, in_flight=1), False),
        (Sidecar("x", slots=2, in_flight=2), True),
        (Sidecar("x", slots=2, in_flight=3, loaded=("a", "b")), False),
        (Sidecar("x", slots=2, in_flight=4, loaded=("a", "b")), True),
        (Sidecar("x", in_flight=1), True),
        (Sidecar("x", slots=2, queued=1), True),
        (Sidecar("x", slots=2, saturated=True), True),
    ],
)
def test_calls_of_others_at_its_sidecar_make_it_busy(sidecar: Sidecar, busy: bool) -> None:
    node = upstream("r1=h")

    node.sidecar = sidecar

    assert node.busy(M, NOW) is busy


def test_our_own_calls_in_a_ping_are_not_counted_twice() -> None:
    node = fill(upstream("r1=h"))
    node.sidecar = Sidecar("x", slots=2, in_flight=2)
    assert (node.load, node.busy(M, NOW)) == (2, True)

    node.give(M, NOW, None)

    assert (node.load, node.busy(M, NOW)) == (1, False)


def test_load_counts_what_waits_there() -> None:
    node = fill(upstream("r1=h"), calls=2)
    node.queued = 1
    node.sidecar = Sidecar("x", slots=2, in_flight=3, queued=4)

    assert node.load == 2 + 1 + 1 + 4

    node.sidecar = None
    assert node.load == 3


def test_cold_call_for_another_model_is_a_load() -> None:
    node = fill(upstream("r1=h", ("m", "hot"), loaded=("hot",)), "hot")

    assert not node.loading_other(M)
    fill(node, "cold")
    assert node.loading_other(M)
    assert not node.loading_other(key("cold"))
    node.take(None)
    assert not node.loading_other(key("cold"))


# ---------------------------------------------------------------- score and latency


def test_score_is_the_expected_wait() -> None:
    near, far, heavy = upstream("local"), upstream("r1=h"), upstream("r2=h2;weight=200")
    for node in (near, far, heavy):
        node.take(M)
        node.give(M, NOW, 10.0)

    assert (near.score(), far.score(), heavy.score()) == (8.0, 10.0, 5.0)
    assert fill(far).score() == 20.0


def test_latency_forgets_with_time() -> None:
    node = upstream("r1=h")
    for at, service in ((NOW, 10.0), (NOW, 0.0), (NOW + 10.0, 0.0)):
        node.take(M)
        node.give(M, at, service)

    assert node.latency == pytest.approx(10.0 / 2.718281828)


def test_call_that_says_nothing_of_speed_changes_no_latency() -> None:
    node = fill(upstream("r1=h"))

    node.give(M, NOW, None)

    assert node.latency is None


# ---------------------------------------------------------------- verdicts


def test_three_failures_eject_the_node_and_say_so() -> None:
    node = upstream("r1=h")
    heard = news(node)

    eject(node)

    assert node.obstacle(NOW) == "circuit-open"
    assert node.failed_at == NOW
    assert heard == ["changed"]


def test_calls_are_failing_where_two_in_a_row_have_lately() -> None:
    node = upstream("r1=h")

    told = []
    for verdict in (MODEL_FAILED, SUCCESS, MODEL_FAILED, MODEL_FAILED):
        node.record(verdict, M, NOW, WALL)
        told.append(node.sound(NOW))

    assert told == [True, True, True, False]
    assert node.sound(NOW + 6)


def test_failures_of_a_model_cool_it_and_leave_the_node_alone() -> None:
    node = upstream("r1=h", ("m", "other"))
    for _ in range(5):
        node.record(MODEL_FAILED, M, NOW, WALL)

    assert node.available(NOW)
    assert (node.cooling(M, NOW), node.cooling(key("other"), NOW)) == (True, False)
    assert node.failed_at == NOW


def test_model_cools_after_one_double_failure_until_a_success() -> None:
    node = upstream("r1=h")

    node.record(MODEL_FAILED, M, NOW, WALL)
    assert not node.cooling(M, NOW)
    node.record(SUCCESS, M, NOW, WALL)
    node.record(MODEL_FAILED, M, NOW, WALL)
    assert not node.cooling(M, NOW)
    node.record(OUT_OF_MEMORY, M, NOW, WALL)
    assert node.cooling(M, NOW)
    node.record(SUCCESS, M, NOW, WALL)
    assert not node.cooling(M, NOW)


def test_model_may_be_tried_when_another_has_left_memory() -> None:
    node = upstream("r1=h")
    node.record(OUT_OF_MEMORY, M, NOW, WALL)
    heard = news(node)

    node.forgive([key("other")])

    assert not node.cooling(M, NOW)
    assert heard == ["changed"]


def test_model_that_left_memory_itself_is_not_forgiven_for_it() -> None:
    node = upstream("r1=h")
    node.record(OUT_OF_MEMORY, M, NOW, WALL)
    heard = news(node)

    node.forgive([M])

    assert node.cooling(M, NOW)
    assert heard == []


def test_verdict_may_put_the_node_in_doubt() -> None:
    node = upstream("r1=h")
    heard = news(node)

    node.record(Verdict(suspect=True), M, NOW, WALL)

    assert node.state is NodeState.SUSPECT
    assert node.doubted
    assert heard == ["changed"]


def test_client_that_left_says_nothing_of_the_node() -> None:
    node = upstream("r1=h")
    for _ in range(2):
        node.record(NODE_FAILED, M, NOW, WALL)

    node.record(Verdict(), M, NOW, WALL)
    node.record(NODE_FAILED, M, NOW, WALL)

    assert not node.available(NOW)


def test_rules_that_are_set_hold() -> None:
    (declared,) = parse_nodes("r1=h")
    node = Upstream(
        declared,
        health=HealthRules.model_validate({"rise": 1}),
        circuit=CircuitRules.model_validate({"failures": 1, "model_failures": 1}),
    )

    node.health = node.health.probed_ok(NOW, WALL, 0.1)
    assert node.state is NodeState.UP
    node.record(MODEL_FAILED, M, NOW, WALL)
    assert node.cooling(M, NOW)
    node.record(NODE_FAILED, M, NOW, WALL)
    assert not node.available(NOW)


# ---------------------------------------------------------------- what wakes others


@pytest.mark.parametrize(
    "change, heard",
    [
        (lambda node: setattr(node, "health", health(NodeState.DOWN)), ["changed"]),
        (lambda node: setattr(node, "health", node.health.probed_ok(NOW, WALL, 0.1)), []),
        (lambda node: setattr(node, "inventory", listed(("m",))), []),
        (lambda node: setattr(node, "inventory", node.inventory.listed((), WALL)), ["changed"]),
        (lambda node: setattr(node, "inventory", listed(("m",), ("m",))), ["changed"]),
        (lambda node: setattr(node, "inventory", Inventory()), ["changed"]),
        (lambda node: setattr(node, "sidecar", Sidecar("x")), ["changed"]),
        (lambda node: setattr(node, "sidecar", None), []),
        (lambda node: node.take(M), []),
        (lambda node: (node.take(M), node.give(M, NOW, None)), ["freed"]),
        (lambda node: node.give(M, NOW, None), []),
    ],
)
def test_changes_are_told(change: Callable[[Upstream], None], heard: list[str]) -> None:
    node = upstream("r1=h")
    told = news(node)

    change(node)

    assert told == heard


def test_what_an_older_version_lacked_may_be_there_in_the_next() -> None:
    node = upstream("r1=h")
    node.inventory = replace(node.inventory, version="0.1")
    node.lacking.add("responses")

    node.inventory = replace(node.inventory, loaded={})
    assert node.lacking
    node.inventory = replace(node.inventory, version="0.2")

    assert not node.lacking


def test_repr_says_who_and_how() -> None:
    assert repr(fill(upstream("r1=h"))) == "<Upstream r1 up 1 in flight>"


class Counting(RuleBasedStateMachine):
    """Calls come and go in any order, also ones that were never there."""

    @initialize(slots=st.integers(1, 4))
    def start(self, slots: int) -> None:
        self.node = upstream("r1=h", slots=slots)
        self.slots = slots
        self.runs: dict[str | None, int] = {}
        self.dice = Random(0)

    @rule(model=st.sampled_from(["a", "b", None]))
    def take(self, model: str | None) -> None:
        self.node.take(model)
        self.runs[model] = self.runs.get(model, 0) + 1

    @rule(
        model=st.sampled_from(["a", "b", None, "never"]),
        service=st.none() | st.floats(0.0, 100.0),
        verdict=st.sampled_from([SUCCESS, NODE_FAILED, OUT_OF_MEMORY, Verdict()]),
    )
    def give(self, model: str | None, service: float | None, verdict: Verdict) -> None:
        self.node.record(verdict, model, NOW, WALL)
        self.node.give(model, NOW, service)
        self.runs[model] = max(0, self.runs.get(model, 0) - 1)

    @invariant()
    def counts_are_what_runs(self) -> None:
        assert self.node.in_flight == sum(self.runs.values())
        for model, count in self.runs.items():
            assert self.node.running(model) == count
            assert self.node.busy(model, NOW) is (count >= self.slots)

    @invariant()
    def nothing_is_kept_of_models_that_do_not_run(self) -> None:
        assert self.node.load == sum(self.runs.values())
        assert self.node.loading_other("c") is any(
            count for model, count in self.runs.items() if model is not None
        )


TestCounting = Counting.TestCase
TestCounting.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)


# ---------------------------------------------------------------- declared anew


def test_other_declaration_of_a_node_changes_what_follows_from_it_alone() -> None:
    node = upstream("r1=h1;weight=100;models=a*")
    node.learned(key("m"), 4)
    before = node.score()

    node.declare(replace(node.node, weight=50, patterns=("b*",)))

    assert node.score() == 2 * before
    assert (node.accepts(key("a")), node.accepts(key("b"))) == (False, True)
    assert node.slots(key("m")) == (4, False)


def test_same_declaration_stays_the_same_object() -> None:
    node = upstream("r1=h1")
    before = node.node

    node.declare(replace(before))

    assert node.node is before


def test_other_rules_close_no_circuit_and_end_no_rest() -> None:
    node = upstream("r1=h1")
    eject(node, NOW)
    node.record(Verdict(blame=Blame.MODEL_DOUBLE), key("m"), NOW, WALL)
    resting = node.cooling(key("m"), NOW)

    node.obey(HealthRules(fall=9), CircuitRules(failures=9, model_failures=9))

    assert resting
    assert node.cooling(key("m"), NOW)
    assert node.obstacle(NOW) == "circuit-open"
    assert (node.health.rules.fall, node.circuit.rules.failures) == (9, 9)


def test_other_rules_hold_for_models_that_fail_from_now_on() -> None:
    node = upstream("r1=h1")

    node.obey(HealthRules(), CircuitRules(model_failures=3))
    node.record(Verdict(blame=Blame.MODEL_DOUBLE), key("m"), NOW, WALL)

    assert not node.cooling(key("m"), NOW)
