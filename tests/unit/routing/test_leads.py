"""First choices that stay first, and models that are only on nodes that are away."""

from random import Random

import pytest

from ollama_wrap.call import Call, Mode
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.inventory import Inventory
from ollama_wrap.nodes.mode import ModeReason
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.nodes.verdict import Blame, Verdict
from ollama_wrap.routing.router import Ranking, Router
from tests.fakes.nodes import NOW, WALL, call, eject, fill, fleet, key, upstream

DOWN, SUSPECT = NodeState.DOWN, NodeState.SUSPECT


def rank(*nodes: Upstream, mode: str = "local-first", asked: Call | None = None) -> Ranking:
    router = Router(mode, "auto", "prefer", Random(1))
    return router.rank(asked or call(), fleet(*nodes), NOW)


def cooled(node: Upstream) -> Upstream:
    node.record(Verdict(blame=Blame.MODEL_DOUBLE), key("m"), NOW, WALL)
    return node


# ---------------------------------------------------------------- leads


def test_first_of_a_tier_of_its_own_leads() -> None:
    assert rank(upstream("local"), upstream("r1=h1")).leads
    assert rank(upstream("local"), upstream("r1=h1", state=DOWN)).leads
    assert rank(upstream("local", ("x",)), upstream("r1=h1")).leads


@pytest.mark.parametrize(
    "nodes",
    [
        (fill(upstream("local")), upstream("r1=h1")),
        (upstream("local", state=SUSPECT), upstream("r1=h1")),
        (upstream("local", state=DOWN), upstream("r1=h1")),
        (eject(upstream("local")), upstream("r1=h1")),
        (upstream("local", ("x",)), upstream("r1=h1"), upstream("r2=h2")),
    ],
    ids=["busy", "suspect", "down", "circuit open", "two in a tier"],
)
def test_choice_that_may_come_out_otherwise_does_not_lead(nodes: tuple[Upstream, ...]) -> None:
    assert not rank(*nodes).leads


@pytest.mark.parametrize("blocked", [eject, cooled])
def test_nobody_leads_while_time_alone_may_bring_a_better_one(blocked: object) -> None:
    assert callable(blocked)
    nearer = blocked(upstream("r1=h1;priority=0"))

    ranking = rank(upstream("local", ("x",)), nearer, upstream("r2=h2;priority=1"))

    assert [one.upstream.node.id for one in ranking.candidates] == ["r2"]
    assert not ranking.leads


def test_another_build_does_not_lead() -> None:
    """A call with a context must not follow it."""
    away = upstream("r1=h1;priority=0", {"m": "a"}, state=DOWN)

    ranking = rank(upstream("local", ("x",)), away, upstream("r2=h2;priority=1", {"m": "b"}))

    assert ranking.candidates[0].conflict
    assert not ranking.leads


def test_forced_choice_does_not_lead() -> None:
    asked = call().altered(forced="r1")

    assert not rank(upstream("local"), upstream("r1=h1"), asked=asked).leads


# ---------------------------------------------------------------- astray


def alone(local: Upstream, away: Upstream, reason: str = ModeReason.NO_NODE_ANSWERS) -> Ranking:
    """A ranking in standalone; `away` is the only other node."""
    asked = call(mode=Mode.STANDALONE)
    router = Router("local-first", "auto", "prefer", Random(1))
    return router.rank(asked, Fleet(Mode.STANDALONE, reason, local, (away,)), NOW)


def ids(ranking: Ranking) -> list[str]:
    return [one.upstream.node.id for one in ranking.candidates]


def test_model_that_is_only_on_a_node_that_is_away_is_asked_of_it() -> None:
    ranking = alone(upstream("local", ("x",)), upstream("r1=h1", state=DOWN))

    assert ids(ranking) == ["r1"]
    assert [node for node, _ in ranking.away] == ["r1"]


def test_node_that_is_not_to_be_used_is_not_asked() -> None:
    ranking = alone(upstream("local", ("x",)), upstream("r1=h1", state=DOWN), ModeReason.SETTING)

    assert ids(ranking) == ["tower"]


@pytest.mark.parametrize("here, there", [(("m",), ("m",)), (("x",), ("x",))])
def test_standalone_is_our_own_ollama_for_all_else(
    here: tuple[str, ...], there: tuple[str, ...]
) -> None:
    assert ids(alone(upstream("local", here), upstream("r1=h1", there, state=DOWN))) == ["tower"]


def test_our_own_ollama_may_have_any_model_until_it_has_listed_them() -> None:
    local = upstream("local")
    local.inventory = Inventory()

    assert ids(alone(local, upstream("r1=h1", state=DOWN))) == ["tower"]
