"""What every routing policy promises, asked of each of them."""

from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_wrap.errors import ConfigError
from ollama_wrap.routing.policies import POLICIES, load
from ollama_wrap.routing.policies.base import Candidate
from tests.fakes.nodes import NOW, call, fill, key, upstream

CALL = call()


def candidate(
    name: str,
    *,
    calls: int = 0,
    latency: float | None = None,
    loaded: bool = False,
    weight: int = 100,
    slots: int = 4,
) -> Candidate:
    node = fill(upstream(f"{name}=h-{name};weight={weight}", slots=slots), calls=calls)
    node.latency = latency
    busy = node.busy(key("m"), NOW)
    return Candidate(node, "policy", node.score(), busy=busy, loaded=loaded)


def names(candidates: Sequence[Candidate]) -> list[str]:
    return [one.upstream.node.id for one in candidates]


def firsts(name: str, candidates: Sequence[Candidate], times: int = 600) -> Counter[str]:
    policy = load(name, Random(7))
    return Counter(names(policy.rank(CALL, candidates))[0] for _ in range(times))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policy_bears_the_name_that_it_is_found_by(name: str) -> None:
    assert load(name, Random(1)).name == name


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(
    nodes=st.lists(
        st.tuples(st.integers(0, 6), st.none() | st.floats(0, 100), st.booleans()),
        min_size=2,
        max_size=8,
    )
)
def test_ranking_is_a_permutation_of_what_came(
    name: str, nodes: list[tuple[int, float | None, bool]]
) -> None:
    given_ones = [
        candidate(f"n{number}", calls=calls, latency=latency, loaded=loaded)
        for number, (calls, latency, loaded) in enumerate(nodes)
    ]
    policy = load(name, Random(1))

    for _ in range(3):
        ranked = policy.rank(CALL, tuple(given_ones))

        assert sorted(names(ranked)) == sorted(names(given_ones))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_ranking_is_the_same_for_the_same_seed(name: str) -> None:
    candidates = [candidate(f"n{number}", latency=float(number)) for number in range(5)]
    one, other = load(name, Random(3)), load(name, Random(3))

    for _ in range(20):
        assert names(one.rank(CALL, candidates)) == names(other.rank(CALL, candidates))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_equal_nodes_share_the_calls(name: str) -> None:
    spread = firsts(name, [candidate("a"), candidate("b"), candidate("c")])

    assert len(spread) == 3
    assert min(spread.values()) >= 150


@pytest.mark.parametrize("name", ["auto", "least-busy", "two-choices"])
def test_node_with_fewest_calls_is_preferred(name: str) -> None:
    candidates = [
        candidate("full", calls=3, loaded=True),
        candidate("half", calls=2, loaded=True),
        candidate("idle", loaded=True),
    ]

    assert firsts(name, candidates)["idle"] > 300
    assert firsts(name, candidates)["full"] == 0


def test_auto_takes_loaded_and_free_then_free_then_busy() -> None:
    candidates = [
        candidate("busy", calls=4, loaded=True, latency=0.1),
        candidate("cold", latency=0.1),
        candidate("hot", loaded=True, latency=50.0),
    ]

    assert names(load("auto", Random(1)).rank(CALL, candidates)) == ["hot", "cold", "busy"]


def test_auto_goes_where_the_model_is_being_loaded_and_not_where_another_is() -> None:
    loads_other, loads_it, idle = candidate("other"), candidate("it", calls=1), candidate("idle")
    loads_other.upstream.take(key("x"))

    ranked = load("auto", Random(1)).rank(CALL, [loads_other, idle, loads_it])

    assert names(ranked) == ["it", "idle", "other"]


def test_auto_loads_no_model_from_a_slow_disk_where_there_is_another() -> None:
    slow, quick, hot = candidate("slow"), candidate("quick"), candidate("hot", loaded=True)
    slow.upstream.slow_disk = hot.upstream.slow_disk = True

    ranked = load("auto", Random(1)).rank(CALL, [slow, quick, hot])

    assert names(ranked) == ["hot", "quick", "slow"]


@pytest.mark.parametrize("name", ["auto", "least-busy"])
def test_call_without_a_model_is_ranked_too(name: str) -> None:
    candidates = [candidate("a"), candidate("b")]

    ranked = load(name, Random(1)).rank(call(None), candidates)

    assert sorted(names(ranked)) == ["a", "b"]


def test_least_busy_counts_calls_for_each_slot() -> None:
    candidates = [candidate("small", calls=1, slots=2), candidate("large", calls=2, slots=8)]

    assert firsts("least-busy", candidates) == {"large": 600}


def test_round_robin_goes_round_and_a_busy_node_keeps_its_turn() -> None:
    a, b, c = candidate("a"), candidate("b"), candidate("c")
    policy = load("round-robin", Random(1))

    order = [names(policy.rank(CALL, [a, b, c]))[0] for _ in range(5)]
    busy = Candidate(c.upstream, "policy", 1.0, busy=True)
    passed = names(policy.rank(CALL, [a, b, busy]))
    after = names(policy.rank(CALL, [a, b, c]))

    assert order == ["a", "b", "c", "a", "b"]
    assert passed[0] == "c"
    assert after[0] == "c"


def test_round_robin_is_fair_in_groups_that_change() -> None:
    nodes = [candidate(name) for name in "abcd"]
    policy = load("round-robin", Random(1))
    turns: Counter[str] = Counter()
    for number in range(120):
        turns[names(policy.rank(CALL, nodes[: 2 + number % 3]))[0]] += 1

    assert min(turns.values()) >= 20


def test_round_robin_moves_on_where_all_are_busy() -> None:
    nodes = [candidate(name, calls=4) for name in "ab"]

    assert firsts("round-robin", nodes, 10) == {"a": 5, "b": 5}


def test_weighted_gives_turns_by_weight_and_mixes_them() -> None:
    nodes = [candidate("a", weight=50), candidate("b", weight=10), candidate("c", weight=10)]
    policy = load("weighted", Random(1))

    order = "".join(names(policy.rank(CALL, nodes))[0] for _ in range(7))

    assert order == "aabacaa"


def test_weighted_keeps_no_debt_of_a_node_that_was_busy_for_long() -> None:
    a, b = candidate("a"), candidate("b")
    busy = Candidate(b.upstream, "policy", 1.0, busy=True)
    policy = load("weighted", Random(1))
    for _ in range(100):
        policy.rank(CALL, [a, busy])

    after = Counter(names(policy.rank(CALL, [a, b]))[0] for _ in range(20))

    assert after["a"] >= 7


def test_least_latency_follows_measurements_and_tries_who_has_none() -> None:
    slow, fast, new = (
        candidate("slow", latency=9.0),
        candidate("fast", latency=1.0),
        candidate("new"),
    )

    ranked = load("least-latency", Random(1)).rank(CALL, [slow, fast, new])

    assert names(ranked) == ["new", "fast", "slow"]


def test_two_choices_spreads_over_all_but_the_longest_wait() -> None:
    nodes = [candidate(name, latency=float(wait)) for wait, name in enumerate("abcd", start=1)]

    spread = firsts("two-choices", nodes)

    assert spread["a"] > spread["b"] > spread["c"] > 0
    assert spread["d"] == 0


class Reverse:
    """A policy as somebody else would write it."""

    name = "reverse"

    def __init__(self, dice: Random) -> None:
        self.dice = dice

    def rank(self, call: object, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return candidates[::-1]


def test_policy_from_outside_is_named_by_module_and_class() -> None:
    policy = load(f"{__name__}:Reverse", Random(1))

    ranked = policy.rank(CALL, [candidate("a"), candidate("b")])

    assert names(ranked) == ["b", "a"]


@pytest.mark.parametrize(
    "name, word",
    [
        ("best", "least-busy"),
        ("no_such_module:X", "no_such_module"),
        ("random:NoSuchClass", "NoSuchClass"),
        ("builtins:str", "rank"),
        ("math:pi", "callable"),
        (":", "Empty module name"),
    ],
)
def test_policy_that_is_none_is_said_with_the_variable(name: str, word: str) -> None:
    with pytest.raises(ConfigError, match="OLLAMA_WRAP_STRATEGY") as caught:
        load(name, Random(1))

    assert word in str(caught.value)
