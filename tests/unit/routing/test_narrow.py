from dataclasses import replace

import pytest

from ollama_wrap.nodes.health import Health, NodeState
from ollama_wrap.nodes.inventory import Inventory, Model
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.nodes.verdict import Blame, Verdict
from ollama_wrap.routing.narrow import Sight, away, look, pool
from tests.fakes.nodes import NOW, WALL, call, eject, fleet, key, upstream

M = key("m")


def seen(*nodes: Upstream, local: Upstream | None = None, model: str = "m") -> Sight:
    """What a call for the model sees where the local Ollama has another one."""
    home = upstream("local", ("other",)) if local is None else local
    return look(call(model), key(model), fleet(home, *nodes), NOW)


def test_holders_that_may_be_asked_are_live() -> None:
    has, lacks = upstream("r1=h1"), upstream("r2=h2", ("x",))

    sight = seen(has, lacks)

    assert (sight.live, sight.doubted, sight.blocked, sight.known) == ([has], [], {}, True)


@pytest.mark.parametrize("state", [NodeState.SUSPECT, NodeState.JOINING])
def test_nodes_in_doubt_are_live_and_marked(state: NodeState) -> None:
    node = upstream("r1=h1", state=state)

    sight = seen(node)

    assert (sight.live, sight.doubted) == ([node], [node])


def test_each_that_may_not_be_asked_has_its_word() -> None:
    down = upstream("r1=h1", state=NodeState.DOWN)
    drained = upstream("r2=h2", state=NodeState.DRAINING)
    ejected = eject(upstream("r3=h3"))
    cooling = upstream("r4=h4")
    cooling.record(Verdict(blame=Blame.MODEL_DOUBLE), M, NOW, WALL)
    both = upstream("r5=h5", state=NodeState.DRAINING)
    both.record(Verdict(blame=Blame.MODEL_DOUBLE), M, NOW, WALL)

    sight = seen(down, drained, ejected, cooling, both)

    assert sight.live == []
    assert sight.known
    assert sight.blocked == {
        down: "node-down",
        drained: "drained",
        ejected: "circuit-open",
        cooling: "circuit-open",
        both: "drained",
    }


def test_nodes_over_the_limit_of_ejection_stay_live_and_come_last() -> None:
    first, second = eject(upstream("r1=h1"), NOW - 1.0), eject(upstream("r2=h2"))

    sight = seen(first, second)

    assert sight.blocked == {first: "circuit-open"}
    assert (sight.live, sight.doubted) == ([second], [second])


def test_local_circuit_is_not_spared() -> None:
    local = eject(upstream("local"))

    assert seen(eject(upstream("r1=h1", ("x",))), local=local).blocked == {local: "circuit-open"}


def test_kinds_versions_patterns_and_lacking_routes_are_left_out() -> None:
    kind = upstream("r1=h1;kind=sglang")
    newer = upstream("r2=h2")
    newer.sidecar = Sidecar("x", proto=(9, 9))
    pattern = upstream("r3=h3;models=qwen*")
    older = upstream("r4=h4")
    older.lacking.add("chat")

    sight = seen(kind, newer, pattern, older)

    assert (sight.live, sight.blocked, sight.known) == ([], {}, False)


def test_stub_of_another_node_is_not_the_model() -> None:
    node = upstream("r1=h1", ())
    node.inventory = Inventory().listed([Model("m", M, "d", remote=True)], WALL)

    assert not seen(node).known


def test_local_node_may_have_anything_until_it_has_listed() -> None:
    local = upstream("local")
    local.inventory = Inventory()

    sight = seen(local=local)

    assert (sight.live, sight.known) == ([local], False)


def test_other_node_has_what_it_was_seen_with_until_it_has_listed() -> None:
    unasked, restarted = upstream("r1=h1"), upstream("r2=h2", state=NodeState.JOINING)
    unasked.inventory = Inventory()
    restarted.inventory = Inventory(seen={M: WALL})

    sight = seen(unasked, restarted)

    assert (sight.live, sight.known) == ([restarted], True)


@pytest.mark.parametrize(
    "forced, ids",
    [
        (None, ["tower", "r1", "r2", "r3"]),
        ("local", ["tower"]),
        ("remote", ["r1"]),
        ("tower", ["tower"]),
        ("r1", ["r1"]),
        ("r2", []),
        ("r3", []),
        ("nobody", []),
    ],
)
def test_force_header_names_a_side_without_what_is_down(forced: str | None, ids: list[str]) -> None:
    down, kind = upstream("r2=h2", state=NodeState.DOWN), upstream("r3=h3;kind=openai")
    nodes = fleet(upstream("local"), upstream("r1=h1"), down, kind)
    wanted = call().altered(forced=forced)

    assert [one.node.id for one in pool(wanted, nodes)] == ids


def test_away_is_who_does_not_answer_and_since_when() -> None:
    down = upstream("r1=h1", state=NodeState.DOWN)
    down.health = replace(down.health, last_seen_wall=WALL + 60.0)
    restarted = upstream("r2=h2")
    restarted.health = Health()
    restarted.inventory = Inventory(seen={M: WALL - 60.0})
    drained = upstream("r3=h3", state=NodeState.DRAINING)
    suspect = upstream("r4=h4", state=NodeState.SUSPECT)

    sight = seen(down, restarted, drained, suspect)

    assert away(sight, M) == (("r1", WALL + 60.0), ("r2", WALL - 60.0))


def test_local_node_that_is_down_and_unknown_is_not_said_to_have_the_model() -> None:
    local = upstream("local", state=NodeState.DOWN)
    local.inventory = Inventory()

    assert away(seen(upstream("r1=h1"), local=local), M) == ()
