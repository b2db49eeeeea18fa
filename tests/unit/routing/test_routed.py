"""Calls that fall under a rule, in the order of its endpoints; and those that do not."""

from collections import Counter
from random import Random

import pytest

from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.config.groups import Routing as Settings
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.inventory import Inventory, Model
from ollama_wrap.nodes.mode import ModeReason
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.nodes.verdict import Blame, Verdict
from ollama_wrap.observe import log
from ollama_wrap.routing.routed import Routed, open_router
from ollama_wrap.routing.router import Ranking, Router
from tests.fakes.nodes import NOW, WALL, call, fill, fleet, key, upstream

DOWN, SUSPECT, WARMING = NodeState.DOWN, NodeState.SUSPECT, NodeState.WARMING
#: r1 first, then r2, and our own Ollama when neither can
CHAIN = "gpt-4*=r1;model=m;priority=0|r2;model=n;priority=1|local;model=o;priority=2"
NAMES = {"local", "tower", "r1", "r2"}
TURNS = "gpt-4*=r1;model=m;weight=30|r2;model=n;weight=10"


def asked(model: str = "gpt-4", body: bytes | None = None, **fields: object) -> Call:
    made = call(model).altered(**{"kind": Kind.INFER, **fields})
    made.body = b'{"model":"%b"}' % model.encode() if body is None else body
    return made


def router(routes: str, **settings: str) -> Router:
    problems: list[str] = []
    made = Settings.model_validate({"routes": routes, **settings})
    found = open_router(made, NAMES, Random(1), problems)
    assert problems == []
    return found


def three() -> tuple[Upstream, Upstream, Upstream]:
    """Our own Ollama with `o`, r1 with `m`, r2 with `n`."""
    return upstream("local", ("o",)), upstream("r1=h1", ("m",)), upstream("r2=h2", ("n",))


def rank(
    routes: str, *nodes: Upstream, one: Call | None = None, mode: Mode = Mode.DISTRIBUTED
) -> Ranking:
    wanted = one or asked()
    wanted.mode = mode
    return router(routes).rank(wanted, fleet(*(nodes or three()), mode=mode), NOW)


def said(ranking: Ranking) -> list[tuple[str, str, str | None]]:
    return [(one.upstream.node.id, one.reason, one.model) for one in ranking.candidates]


def ids(ranking: Ranking) -> list[str]:
    return [one.upstream.node.id for one in ranking.candidates]


# ---------------------------------------------------------------- the rule


def test_nothing_but_a_router_is_made_without_rules() -> None:
    assert type(router("")) is Router
    assert isinstance(router(CHAIN), Routed)


def test_rules_that_cannot_be_read_are_a_problem_and_the_rest_is_made() -> None:
    problems = ["before"]

    made = open_router(Settings(routes="a=r1;x=1,b"), NAMES, Random(1), problems)

    assert type(made) is Router
    assert [one.partition(":")[0] for one in problems[1:]] == ["OLLAMA_WRAP_ROUTES"] * 2


def test_node_that_nobody_knows_yet_is_said_and_no_problem(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.flush()
    capsys.readouterr()
    problems: list[str] = []
    settings = Settings(routes="a=r9|local|tower|r1,b=r9")

    open_router(settings, NAMES, Random(1), problems)

    log.flush()
    said = capsys.readouterr().err
    assert said.count("no node is known as") == said.count("r9") == 1
    assert problems == []


def test_endpoints_come_by_priority_each_under_its_own_name() -> None:
    ranking = rank(CHAIN)

    assert said(ranking) == [
        ("r1", "priority", "m"),
        ("r2", "priority", "n"),
        ("tower", "priority", "o"),
    ]
    assert (ranking.key, ranking.leads, ranking.passed_over) == (key("gpt-4"), False, None)
    assert [one.key(ranking.key) for one in ranking.candidates] == [key("m"), key("n"), key("o")]


@pytest.mark.parametrize("name", ["gpt-4", "GPT-4o", "gpt-4:latest", "library/gpt-4", "gpt-4:1b"])
def test_rule_means_every_spelling_of_a_name(name: str) -> None:
    assert ids(rank("gpt-4*=r1;model=m", one=asked(name))) == ["r1"]


def test_pattern_without_a_tag_means_the_name_without_one() -> None:
    assert ids(rank("gpt=r1;model=m", one=asked("gpt:latest"))) == ["r1"]
    assert not rank("gpt=r1;model=m", one=asked("gpt:7b")).known


def test_first_rule_that_matches_holds() -> None:
    assert ids(rank("gpt*=r2;model=n,gpt-4=r1;model=m")) == ["r2"]


def test_rule_may_narrow_the_holders_of_the_name_itself() -> None:
    nodes = upstream("local"), upstream("r1=h1"), upstream("r2=h2")

    assert said(rank("m=r2;model=m:latest", *nodes, one=asked("m"))) == [("r2", "policy", None)]


def test_endpoint_may_be_named_as_its_sidecar_calls_itself() -> None:
    local, r1, r2 = three()
    r2.sidecar = Sidecar("attic")

    assert ids(rank("gpt-4=attic;model=n", local, r1, r2)) == ["r2"]


# ---------------------------------------------------------------- the order


def test_weights_of_one_priority_are_shares() -> None:
    made, nodes = router(TURNS), fleet(*three())

    first = Counter(ids(made.rank(asked(), nodes, NOW))[0] for _ in range(2000))

    assert 1400 < first["r1"] < 1600
    assert first["r1"] + first["r2"] == 2000


def test_weights_say_policy() -> None:
    assert {reason for _, reason, _ in said(rank(TURNS))} == {"policy"}


def test_next_priority_is_taken_while_the_first_is_busy_with_its_own_model() -> None:
    local, r1, r2 = three()

    assert ids(rank(CHAIN, local, fill(r1, "n"), r2))[0] == "r1"
    busy = rank(CHAIN, local, fill(r1, "m"), r2)

    assert said(busy)[0] == ("r2", "busy", "n")
    assert ids(busy) == ["r2", "tower", "r1"]


def test_endpoint_that_is_down_is_left_out_and_one_in_doubt_is_last() -> None:
    local, r1, r2 = three()
    suspect = upstream("r1=h1", ("m",), state=SUSPECT)

    assert ids(rank(CHAIN, local, upstream("r1=h1", ("m",), state=DOWN), r2)) == ["r2", "tower"]
    assert ids(rank(CHAIN, local, suspect, r2)) == ["r2", "tower", "r1"]
    assert ids(rank(CHAIN, local, r1, r2)) == ["r1", "r2", "tower"]


def test_model_that_failed_at_an_endpoint_keeps_only_that_one_out() -> None:
    local, r1, r2 = three()
    r1.record(Verdict(blame=Blame.MODEL_DOUBLE), key("m"), NOW, WALL)
    r2.record(Verdict(blame=Blame.MODEL_DOUBLE), key("m"), NOW, WALL)

    assert ids(rank(CHAIN, local, r1, r2)) == ["r2", "tower"]


def test_all_endpoints_down_is_a_last_try_and_no_matter_of_others() -> None:
    local, _, r2 = upstream("local", ("gpt-4",)), None, upstream("r2=h2", ("n",), state=DOWN)
    r1 = upstream("r1=h1", ("m",), state=DOWN)
    r1.failed_at = NOW

    ranking = rank(TURNS, local, r1, r2)

    assert said(ranking) == [("r2", "last-gasp", "n"), ("r1", "last-gasp", "m")]
    assert sorted(ranking.away) == [("r1", WALL), ("r2", WALL)]


def test_node_that_comes_back_leaves_calls_to_others_of_its_priority() -> None:
    local, _, r2 = three()
    back = upstream("r1=h1", ("m",), state=WARMING)

    assert ids(rank(TURNS, local, back, r2)) == ["r2", "r1"]


@pytest.mark.parametrize("slots, holds", [(1, True), (None, False)])
def test_call_waits_only_where_all_slots_are_known(slots: int | None, holds: bool) -> None:
    nodes = [upstream(f"r{n}=h{n}", (name,), slots=slots) for n, name in ((1, "m"), (2, "n"))]

    assert rank(TURNS, upstream("local", ()), *nodes).holdable is holds


# ---------------------------------------------------------------- digests


@pytest.mark.parametrize(
    "digests, order",
    [
        ("prefer", [("r1", "priority"), ("r3", "priority"), ("r2", "digest-conflict")]),
        ("require", [("r1", "priority"), ("r3", "priority")]),
        ("ignore", [("r1", "priority"), ("r2", "priority"), ("r3", "priority")]),
    ],
)
def test_builds_are_compared_for_each_model_by_itself(
    digests: str, order: list[tuple[str, str]]
) -> None:
    rule = "gpt-4=r1;model=m|r2;model=m;priority=1|r3;model=n;priority=2"
    nodes = [
        upstream("local", ()),
        upstream("r1=h1", {"m": "a"}),
        upstream("r2=h2", {"m": "b"}),
        upstream("r3=h3", {"n": "c"}),
    ]

    ranking = router(rule, digests=digests).rank(asked(), fleet(*nodes), NOW)

    assert [(node, reason) for node, reason, _ in said(ranking)] == order


def test_build_of_a_nearer_endpoint_that_is_away_is_the_one_that_counts() -> None:
    rule = "gpt-4=r1;model=m|r2;model=m;priority=1|r3;model=m;priority=2"
    nodes = [
        upstream("local", ()),
        upstream("r1=h1", {"m": "a"}, state=DOWN),
        upstream("r2=h2", {"m": "b"}),
        upstream("r3=h3", {"m": "a"}),
    ]

    assert ids(rank(rule, *nodes)) == ["r3", "r2"]


def test_tokens_of_one_build_go_to_no_other_model() -> None:
    assert ids(rank(CHAIN, one=asked(bound_to_digest=True))) == ["r1"]


# ---------------------------------------------------------------- no rule


def test_endpoints_that_have_not_the_model_are_as_no_rule() -> None:
    nodes = upstream("local", ()), upstream("r1=h1", ("gpt-4",)), upstream("r2=h2", ("x",))

    ranking = rank("gpt-4=r2;model=n|r9;model=n|local;model=n", *nodes)

    assert said(ranking) == [("r1", "model-missing", None)]
    assert not ranking.leads


def test_name_that_no_rule_means_is_ranked_and_leads_as_ever() -> None:
    nodes = upstream("local"), upstream("r1=h1")

    ranking = rank(CHAIN, *nodes, one=asked("m"))

    assert (said(ranking)[0], ranking.leads) == (("tower", "local", None), True)


@pytest.mark.parametrize(
    "one",
    [
        asked(hop=True),
        asked("gpt-4:cloud"),
        asked(kind=Kind.SPREAD, unload=True),
        asked(kind=Kind.FOLLOW, operation="copy"),
        asked("gpt 4"),
    ],
    ids=["hop", "cloud", "unload", "copy", "no name"],
)
def test_what_is_no_question_to_a_model_has_no_rule(one: Call) -> None:
    assert all(model is None for _, _, model in said(rank("gpt*=r1;model=m", one=one)))
    assert ids(rank("gpt*=r1;model=m", one=one)) == ["tower"]


def test_local_stub_has_no_rule() -> None:
    local, r1, r2 = three()
    local.inventory = Inventory().listed([Model("gpt-4", key("gpt-4"), "d", remote=True)], WALL)

    assert said(rank(CHAIN, local, r1, r2)) == [("tower", "local", None)]


def test_show_goes_where_the_model_is() -> None:
    one = asked(body=b'{"name":"gpt-4"}', kind=Kind.FOLLOW, operation="show")

    assert ids(rank(CHAIN, one=one))[0] == "r1"


@pytest.mark.parametrize("body", [b'{"model":"gpt-4","model":"gpt-4"}', b"--X", b"", b"[]", None])
def test_body_that_no_name_can_be_written_into_goes_where_its_own_name_holds(
    body: bytes | None,
) -> None:
    one = asked()
    one.body = body
    local, r1, _ = three()
    r2 = upstream("r2=h2", ("gpt-4",))

    assert said(rank("gpt-4=r1;model=m|r2", local, r1, r2, one=one)) == [("r2", "policy", None)]


# ---------------------------------------------------------------- wishes and modes


@pytest.mark.parametrize(
    "forced, order",
    [("r2", ["r2"]), ("remote", ["r1", "r2"]), ("local", ["tower"])],
)
def test_force_header_chooses_among_the_endpoints(forced: str, order: list[str]) -> None:
    ranking = rank(CHAIN, one=asked(forced=forced))

    assert ids(ranking) == order
    assert {reason for _, reason, _ in said(ranking)} == {"forced"}


def test_local_mode_knows_no_rules() -> None:
    assert said(rank(CHAIN, mode=Mode.LOCAL)) == [("tower", "local", None)]


def test_standalone_asks_the_local_endpoint_alone() -> None:
    assert said(rank(CHAIN, mode=Mode.STANDALONE)) == [("tower", "policy", "o")]


def test_endpoint_that_is_away_is_asked_once_more_where_no_node_answers() -> None:
    away = upstream("r1=h1", ("m",), state=DOWN)
    nodes = Fleet(Mode.STANDALONE, ModeReason.NO_NODE_ANSWERS, upstream("local", ()), (away,))

    ranking = router(CHAIN).rank(asked(mode=Mode.STANDALONE), nodes, NOW)

    assert said(ranking) == [("r1", "last-gasp", "m")]
    assert ranking.away == (("r1", WALL),)
