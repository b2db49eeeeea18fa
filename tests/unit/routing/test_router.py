from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_wrap.call import Call, Mode
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.inventory import Inventory, Model
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.nodes.verdict import Blame, Verdict
from ollama_wrap.routing.policies import POLICIES
from ollama_wrap.routing.router import Ranking, Router
from tests.fakes.nodes import NOW, WALL, call, eject, fill, fleet, health, key, upstream

M = key("m")
DOWN, DRAINING = NodeState.DOWN, NodeState.DRAINING
SUSPECT, WARMING, UP = NodeState.SUSPECT, NodeState.WARMING, NodeState.UP


def router(mode: str = "local-first", policy: str = "auto", digests: str = "prefer") -> Router:
    return Router(mode, policy, digests, Random(1))


def rank(
    *nodes: Upstream, mode: str = "local-first", digests: str = "prefer", asked: Call | None = None
) -> Ranking:
    """Ranks a call for `m`; the first node is the local one."""
    return router(mode, digests=digests).rank(asked or call(), fleet(*nodes), NOW)


def said(ranking: Ranking) -> list[tuple[str, str]]:
    return [(one.upstream.node.id, one.reason) for one in ranking.candidates]


def ids(ranking: Ranking) -> list[str]:
    return [one.upstream.node.id for one in ranking.candidates]


def cooled(node: Upstream) -> Upstream:
    node.record(Verdict(blame=Blame.MODEL_DOUBLE), M, NOW, WALL)
    return node


# ---------------------------------------------------------------- the local Ollama alone


@pytest.mark.parametrize("mode", [Mode.LOCAL, Mode.STANDALONE])
def test_mode_without_other_nodes_asks_the_local_one_whatever_its_state(mode: Mode) -> None:
    asked = call(mode=mode).altered(forced="r1", side="remote")

    ranking = rank(upstream("local", state=DOWN), upstream("r1=h1"), asked=asked)

    assert said(ranking) == [("tower", "local")]
    assert (ranking.passed_over, ranking.holdable, ranking.away) == (None, False, ())


def test_call_from_another_sidecar_is_served_here() -> None:
    ranking = rank(upstream("local", ()), upstream("r1=h1"), asked=call().altered(hop=True))

    assert said(ranking) == [("tower", "hop")]


@pytest.mark.parametrize("model", [None, "", "m:cloud", "gpt-oss:120b-cloud", "a b", "m@sha256:1"])
def test_calls_that_only_stock_can_answer_stay_here(model: str | None) -> None:
    node = upstream("r1=h1", ("m", "gpt-oss:120b"))

    ranking = rank(upstream("local", ()), node, asked=call(model).altered(forced="remote"))

    assert said(ranking) == [("tower", "local")]


def test_local_stub_is_answered_here_though_another_node_has_the_model() -> None:
    local = upstream("local")
    local.inventory = Inventory().listed([Model("m", M, "d", remote=True)], WALL)

    assert said(rank(local, upstream("r1=h1"))) == [("tower", "local")]


def test_model_that_nobody_is_known_to_hold_is_asked_of_stock() -> None:
    ranking = rank(upstream("local", ("x",)), upstream("r1=h1", ("x",)))

    assert said(ranking) == [("tower", "local")]
    assert not ranking.known


def test_candidate_of_the_local_mode_says_what_it_is() -> None:
    local = fill(upstream("local", loaded=("m",)))

    (one,) = rank(local, asked=call(mode=Mode.LOCAL)).candidates

    assert (one.busy, one.loaded, one.conflict, one.score) == (True, True, False, local.score())


# ---------------------------------------------------------------- sides


@pytest.mark.parametrize(
    "mode, order",
    [
        ("local-first", [("tower", "local"), ("r1", "policy")]),
        ("remote-first", [("r1", "policy"), ("tower", "local")]),
    ],
)
def test_preferred_side_comes_first(mode: str, order: list[tuple[str, str]]) -> None:
    assert said(rank(upstream("local"), upstream("r1=h1"), mode=mode)) == order


def test_balanced_asks_the_policy_over_all() -> None:
    nodes = fleet(upstream("local"), upstream("r1=h1", loaded=("m",)))

    ranking = router("balanced").rank(call(), nodes, NOW)

    assert said(ranking) == [("r1", "policy"), ("tower", "policy")]


@pytest.mark.parametrize(
    "mode, side, first",
    [
        ("local-first", "remote", "r1"),
        ("remote-first", "local", "tower"),
        ("local-first", None, "tower"),
        ("local-first", "auto", "tower"),
    ],
)
def test_route_header_is_a_preference_for_one_call(mode: str, side: str | None, first: str) -> None:
    ranking = rank(upstream("local"), upstream("r1=h1"), mode=mode, asked=call().altered(side=side))

    assert ids(ranking)[0] == first
    assert len(ids(ranking)) == 2


@pytest.mark.parametrize(
    "mode, reason",
    [("local-first", "model-missing"), ("balanced", "model-missing"), ("remote-first", "policy")],
)
def test_model_that_is_missing_here_is_routing_and_no_fallback(mode: str, reason: str) -> None:
    ranking = rank(upstream("local", ()), upstream("r1=h1"), mode=mode)

    assert said(ranking) == [("r1", reason)]
    assert ranking.passed_over is None


@pytest.mark.parametrize(
    "mode, reason",
    [("local-first", "local"), ("balanced", "local"), ("remote-first", "model-missing")],
)
def test_model_that_only_the_local_node_has(mode: str, reason: str) -> None:
    ranking = rank(upstream("local"), upstream("r1=h1", ()), mode=mode)

    assert said(ranking) == [("tower", reason)]
    assert ranking.passed_over is None


@pytest.mark.parametrize(
    "local, word",
    [
        (upstream("local", state=DOWN), "local-unhealthy"),
        (upstream("local", state=SUSPECT), "local-unhealthy"),
        (upstream("local", state=NodeState.JOINING), None),
        (upstream("local", state=DRAINING), "drained"),
        (eject(upstream("local")), "circuit-open"),
        (cooled(upstream("local")), "circuit-open"),
        (fill(upstream("local")), None),
        (upstream("local", ()), None),
    ],
)
def test_local_side_that_is_passed_over_has_a_word_where_it_is_ill(
    local: Upstream, word: str | None
) -> None:
    ranking = rank(local, upstream("r1=h1"))

    assert ids(ranking)[0] == "r1"
    assert ranking.passed_over == word


@pytest.mark.parametrize(
    "others, word",
    [
        ([upstream("r1=h1", state=DOWN)], "node-down"),
        ([upstream("r1=h1", state=SUSPECT)], "node-down"),
        ([eject(upstream("r1=h1"))], "circuit-open"),
        ([upstream("r1=h1", (), state=DOWN)], "no-nodes"),
        ([upstream("r1=h1", ())], None),
        ([fill(upstream("r1=h1"))], None),
        ([], None),
    ],
)
def test_remote_side_that_is_passed_over_has_a_word_where_it_is_ill(
    others: list[Upstream], word: str | None
) -> None:
    ranking = rank(upstream("local"), *others, mode="remote-first")

    assert ids(ranking)[0] == "tower"
    assert ranking.passed_over == word


def test_local_node_that_is_ill_does_not_hide_an_ill_remote_side() -> None:
    local, down = eject(upstream("local")), upstream("r1=h1", state=DOWN)

    ranking = rank(local, down, mode="remote-first")

    assert said(ranking) == [("tower", "last-gasp"), ("r1", "last-gasp")]
    assert ranking.passed_over == "node-down"


def test_balanced_prefers_no_side_and_passes_none_over() -> None:
    ranking = rank(upstream("local", state=DOWN), upstream("r1=h1"), mode="balanced")

    assert said(ranking) == [("r1", "policy")]
    assert ranking.passed_over is None


# ---------------------------------------------------------------- tiers, busy, doubt


def test_tiers_go_by_priority_and_then_by_policy() -> None:
    ranking = rank(
        upstream("local"),
        upstream("r1=h1;priority=1"),
        upstream("r2=h2;priority=-1"),
        upstream("r3=h3;priority=-1", loaded=("m",)),
    )

    assert said(ranking) == [
        ("tower", "local"),
        ("r3", "priority"),
        ("r2", "priority"),
        ("r1", "priority"),
    ]


@pytest.mark.parametrize(
    "nodes, order",
    [
        (
            (fill(upstream("local")), upstream("r1=h1"), upstream("r2=h2;priority=1")),
            [("r1", "busy"), ("r2", "busy"), ("tower", "local")],
        ),
        (
            (upstream("local", ()), fill(upstream("r1=h1")), upstream("r2=h2;priority=1")),
            [("r2", "busy"), ("r1", "model-missing")],
        ),
    ],
)
def test_tier_is_left_when_all_of_it_is_busy(
    nodes: tuple[Upstream, ...], order: list[tuple[str, str]]
) -> None:
    assert said(rank(*nodes)) == order


def test_tier_with_one_free_node_is_not_left() -> None:
    ranking = rank(
        upstream("local", ()),
        fill(upstream("r1=h1")),
        upstream("r2=h2"),
        upstream("r3=h3;priority=1"),
    )

    assert ids(ranking) == ["r2", "r3", "r1"]


def test_busy_nodes_with_declared_slots_go_by_expected_wait() -> None:
    slow, fast = fill(upstream("local", slots=1)), fill(upstream("r1=h1", slots=2), calls=2)
    slow.latency, fast.latency = 60.0, 1.0

    ranking = rank(slow, fast)

    assert ids(ranking) == ["r1", "tower"]
    assert ranking.holdable


def test_busy_nodes_with_guessed_slots_go_by_calls_in_flight() -> None:
    slow, fast = fill(upstream("local"), calls=2), fill(upstream("r1=h1"), calls=3)
    slow.latency, fast.latency = 60.0, 1.0

    ranking = rank(slow, fast)

    assert ids(ranking) == ["tower", "r1"]
    assert not ranking.holdable


def test_call_may_wait_only_where_all_slots_are_declared_or_reported() -> None:
    local, other, third = upstream("local", slots=1), upstream("r1=h1"), upstream("r2=h2", slots=1)

    assert rank(local, third).holdable
    assert not rank(local, other, third).holdable
    other.learned(M, 4)
    assert not rank(local, other, third).holdable
    other.sidecar = Sidecar("x", slots=4)
    assert rank(local, other, third).holdable
    assert not rank(upstream("local", ()), third).holdable


@pytest.mark.parametrize("state", [SUSPECT, NodeState.JOINING])
def test_nodes_in_doubt_come_last_also_behind_busy_ones(state: NodeState) -> None:
    ranking = rank(upstream("local", state=state), fill(upstream("r1=h1")))

    assert ids(ranking) == ["r1", "tower"]


def test_single_holder_in_doubt_is_asked() -> None:
    node = upstream("r1=h1", state=SUSPECT)

    assert said(rank(upstream("local", ()), node)) == [("r1", "model-missing")]


def test_node_that_has_just_come_back_gets_a_tenth_and_later_all() -> None:
    back, old = upstream("r1=h1", state=WARMING, loaded=("m",)), upstream("r2=h2")
    nodes, asking = fleet(upstream("local", ()), back, old), router()

    def share(now: float) -> float:
        firsts = Counter(ids(asking.rank(call(), nodes, now))[0] for _ in range(500))
        return firsts["r1"] / 500

    assert 0.05 < share(NOW) < 0.16
    assert 0.45 < share(NOW + 15.0) < 0.65
    assert share(NOW + 30.0) == 1.0


def test_node_that_has_just_come_back_is_used_at_once_where_it_is_alone() -> None:
    ranking = rank(upstream("local", state=WARMING), upstream("r1=h1"))

    assert ids(ranking)[0] == "tower"


# ---------------------------------------------------------------- digests


def test_other_digest_is_a_last_tier_even_when_the_equal_ones_are_busy() -> None:
    local = fill(upstream("local", {"m": "A"}))
    other, equal = upstream("r1=h1", {"m": "B"}), upstream("r2=h2;priority=9", {"m": "A"})

    ranking = rank(local, other, equal)

    assert said(ranking) == [("r2", "busy"), ("tower", "local"), ("r1", "digest-conflict")]
    assert [one.conflict for one in ranking.candidates] == [False, False, True]


def test_first_choice_that_is_down_keeps_the_digest() -> None:
    ranking = rank(upstream("local", {"m": "A"}, state=DOWN), upstream("r1=h1", {"m": "B"}))

    assert said(ranking) == [("r1", "digest-conflict")]


def test_digest_of_a_farther_tier_that_is_down_does_not_count() -> None:
    far = upstream("r2=h2;priority=1", {"m": "A"}, state=DOWN)

    ranking = rank(upstream("local", ()), upstream("r1=h1", {"m": "B"}), far)

    assert said(ranking) == [("r1", "model-missing")]


def test_require_uses_no_other_digest_not_even_at_last() -> None:
    local = upstream("local", {"m": "A"}, state=DOWN)
    other = upstream("r1=h1", {"m": "B"})

    assert said(rank(local, other, digests="require")) == [("tower", "last-gasp")]
    local.health = health(UP)
    assert ids(rank(local, other, digests="require")) == ["tower"]


def test_ignore_makes_no_difference() -> None:
    local, other = fill(upstream("local", {"m": "A"})), upstream("r1=h1", {"m": "B"})

    ranking = rank(local, other, digests="ignore")

    assert said(ranking) == [("r1", "busy"), ("tower", "local")]


def test_call_bound_to_a_digest_never_goes_to_another() -> None:
    asked = call().altered(bound_to_digest=True)
    local, other = upstream("local", {"m": "A"}, state=DOWN), upstream("r1=h1", {"m": "B"})

    assert ids(rank(local, other, asked=asked)) == ["tower"]


def test_digest_that_is_not_known_is_no_conflict() -> None:
    restarted = upstream("r1=h1")
    restarted.inventory = Inventory(seen={M: WALL})

    ranking = rank(upstream("local", {"m": "A"}), restarted)

    assert [one.conflict for one in ranking.candidates] == [False, False]


def test_conflict_candidates_do_not_make_a_call_wait() -> None:
    local = fill(upstream("local", {"m": "A"}, slots=1))

    assert not rank(local, upstream("r1=h1", {"m": "B"}, slots=1)).holdable


# ---------------------------------------------------------------- force headers


def test_forced_local_ranks_the_local_node_alone() -> None:
    asked = call().altered(forced="local")

    ranking = rank(fill(upstream("local")), upstream("r1=h1"), asked=asked, mode="remote-first")

    assert said(ranking) == [("tower", "forced")]
    assert ranking.passed_over is None


def test_forced_remote_ranks_the_others_alone() -> None:
    asked = call().altered(forced="remote")

    ranking = rank(
        upstream("local", loaded=("m",)), fill(upstream("r1=h1")), upstream("r2=h2"), asked=asked
    )

    assert said(ranking) == [("r2", "forced"), ("r1", "forced")]


def test_forced_node_ranks_it_alone_and_says_itself_that_the_model_is_missing() -> None:
    one, two = upstream("r1=h1", ()), upstream("r2=h2")

    ranking = rank(upstream("local"), one, two, asked=call().altered(forced="r1"))

    assert said(ranking) == [("r1", "forced")]
    assert not ranking.known


@pytest.mark.parametrize("forced", ["local", "remote", "r1", "nobody"])
def test_forced_side_that_is_down_leaves_nobody(forced: str) -> None:
    nodes = (
        upstream("local", state=DOWN),
        upstream("r1=h1", state=DOWN),
    )

    ranking = rank(*nodes, asked=call().altered(forced=forced))

    assert ranking.candidates == ()
    assert not ranking.holdable


def test_forced_node_is_tried_though_its_circuit_is_open() -> None:
    ranking = rank(upstream("local"), eject(upstream("r1=h1")), asked=call().altered(forced="r1"))

    assert said(ranking) == [("r1", "forced")]


def test_forced_remote_without_a_holder_ranks_all_others() -> None:
    asked = call().altered(forced="remote")

    ranking = rank(upstream("local"), upstream("r1=h1", ()), upstream("r2=h2", ()), asked=asked)

    assert sorted(said(ranking)) == [("r1", "forced"), ("r2", "forced")]


# ---------------------------------------------------------------- the last resort


def test_when_all_holders_are_away_they_are_tried_anyway() -> None:
    away = upstream("r1=h1", state=DOWN)

    ranking = rank(upstream("local", ()), away)

    assert said(ranking) == [("r1", "last-gasp")]
    assert ranking.away == (("r1", WALL),)
    assert ranking.known
    assert ranking.passed_over is None


def test_last_resort_is_the_local_node_and_then_who_failed_longest_ago() -> None:
    late, early = eject(upstream("r1=h1"), NOW), eject(upstream("r2=h2"), NOW - 5.0)
    local, never = cooled(upstream("local")), upstream("r3=h3", state=DOWN)

    ranking = router().rank(call(), fleet(local, late, never), NOW)
    assert ids(ranking) == ["tower", "r3", "r1"]
    ranking = router().rank(call(), fleet(local, late), NOW)
    assert ids(ranking) == ["tower", "r1"]
    ranking = router().rank(call(), fleet(upstream("local", ()), cooled(late), cooled(early)), NOW)
    assert ids(ranking) == ["r1", "r2"]


def test_last_candidate_is_never_ejected() -> None:
    others = [eject(upstream(f"r{n}=h{n}"), NOW - n / 10) for n in range(3)]

    ranking = rank(eject(upstream("local", ())), *others)

    assert ids(ranking) == ["r0", "r1"] or ids(ranking) == ["r1", "r0"]


# ---------------------------------------------------------------- all at once

NODES = st.tuples(
    st.sampled_from([UP, SUSPECT, DOWN, DRAINING, WARMING, NodeState.JOINING]),
    st.sampled_from(["", "A", "B"]),
    st.integers(0, 2),
    st.none() | st.integers(1, 2),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from(["ollama", "ollama", "ollama", "sglang"]),
)
Facts = tuple[NodeState, str, int, int | None, int, bool, str]


def made(number: int, facts: Facts) -> Upstream:
    state, digest, priority, slots, calls, ejected, kind = facts
    models = {"m": digest} if digest else {}
    text = f"r{number}=h{number};priority={priority};kind={kind}" if number else "local"
    node = fill(upstream(text, models, state=state, slots=slots), calls=calls)
    return eject(node) if ejected else node


def check(ranking: Ranking, asked: Call, nodes: Fleet, digests: str) -> None:
    chosen = [one.upstream for one in ranking.candidates]
    holders = [one for one in nodes.upstreams if one.routable and one.inventory.holds(M)]
    live = [one for one in holders if one.available(NOW) or one in nodes.spared(NOW)]

    assert len(set(chosen)) == len(chosen)
    assert ranking.known is bool(holders)
    if not holders:
        assert chosen == [nodes.local]
        return
    assert chosen
    assert set(chosen) <= set(holders)
    if digests == "ignore":
        assert set(chosen) == set(live or holders)
    if any(one.reason == "last-gasp" for one in ranking.candidates):
        assert not set(chosen) & set(live)
    else:
        assert set(chosen) <= set(live)
    conflicts = [one.conflict for one in ranking.candidates]
    assert conflicts == sorted(conflicts)
    if digests == "require" or asked.bound_to_digest:
        assert digests == "ignore" or not any(conflicts)
    if ranking.holdable:
        assert all(one.conflict or one.upstream.slots(M)[1] for one in ranking.candidates)
    equal = [one for one in ranking.candidates if not one.conflict and not one.upstream.doubted]
    certain = [one.busy for one in equal if one.upstream.available(NOW)]
    assert certain == sorted(certain) or ranking.candidates[0].reason == "last-gasp"


@settings(max_examples=500, deadline=None)
@given(
    facts=st.lists(NODES, min_size=1, max_size=6),
    mode=st.sampled_from(["local-first", "balanced", "remote-first"]),
    policy=st.sampled_from(sorted(POLICIES)),
    digests=st.sampled_from(["prefer", "require", "ignore"]),
    bound=st.booleans(),
)
def test_ranking_holds_each_that_can_serve_once_and_nobody_else(
    facts: list[Facts], mode: str, policy: str, digests: str, bound: bool
) -> None:
    nodes = fleet(*(made(number, one) for number, one in enumerate(facts)))
    asked = call().altered(bound_to_digest=bound)

    ranking = Router(mode, policy, digests, Random(1)).rank(asked, nodes, NOW)

    check(ranking, asked, nodes, digests)
