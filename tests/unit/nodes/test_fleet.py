import pytest

from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.sidecar import Sidecar
from tests.fakes.nodes import NOW, WALL, eject, fill, fleet, health, key, upstream


def test_upstreams_are_in_order_and_the_local_one_first() -> None:
    local, one, two = upstream("local"), upstream("r1=h1"), upstream("r2=h2")

    assert fleet(local, one, two).upstreams == (local, one, two)


def test_holders_are_who_has_the_model_whatever_their_state() -> None:
    local, down, other = (
        upstream("local"),
        upstream("r1=h1", state=NodeState.DOWN),
        upstream("r2=h2", ("x",)),
    )

    assert fleet(local, down, other).holders(key("m")) == (local, down)


def test_node_is_found_by_id_and_by_the_name_its_sidecar_has() -> None:
    local, one, two = upstream("local"), upstream("r1=h1"), upstream("r2=h2")
    two.sidecar = Sidecar("attic")
    nodes = fleet(local, one, two)

    assert nodes.find("local") is local
    assert nodes.find("tower") is local
    assert nodes.find("r1") is one
    assert nodes.find("attic") is two
    assert nodes.find("cellar") is None


@pytest.mark.parametrize(
    "states, answering",
    [
        ([], False),
        ([NodeState.DOWN], False),
        ([NodeState.DOWN, NodeState.UP], True),
        ([NodeState.JOINING], True),
        ([NodeState.DRAINING], True),
    ],
)
def test_some_node_is_thought_to_answer(states: list[NodeState], answering: bool) -> None:
    others = [upstream(f"r{n}=h{n}", state=state) for n, state in enumerate(states)]

    assert fleet(upstream("local"), *others).answering() is answering


@pytest.mark.parametrize(
    "others, ejected, spared",
    [(1, 1, 0), (2, 1, 0), (2, 2, 1), (3, 2, 1), (4, 2, 0), (5, 5, 3), (20, 20, 10)],
)
def test_at_most_half_of_the_others_are_left_out(others: int, ejected: int, spared: int) -> None:
    nodes = [upstream(f"r{n}=h{n}") for n in range(others)]
    for number, node in enumerate(nodes[:ejected]):
        eject(node, NOW + number / 100)

    kept = fleet(upstream("local"), *nodes).spared(NOW + 1.0)

    assert list(kept) == nodes[ejected - spared : ejected]


def test_nodes_that_nobody_knows_yet_do_not_count_as_others() -> None:
    known = [eject(upstream(f"r{n}=h{n}"), NOW + n) for n in range(2)]
    joining = [upstream(f"j{n}=j{n}", state=NodeState.JOINING) for n in range(2)]

    assert list(fleet(upstream("local"), *known, *joining).spared(NOW + 2.0)) == [known[1]]


def test_nodes_that_are_down_do_not_count_as_left_out() -> None:
    down, ejected = upstream("r1=h1", state=NodeState.DOWN), eject(upstream("r2=h2"))

    assert not fleet(upstream("local"), eject(down), ejected).spared(NOW)


def test_holder_tells_of_changes_of_its_present_upstreams_only() -> None:
    local, old, new = upstream("local"), upstream("r1=h1"), upstream("r2=h2")
    fleets, heard = Fleets(fleet(local, old)), list[str]()
    fleets.changed.subscribe(lambda: heard.append("changed"))
    fleets.freed.subscribe(lambda: heard.append("freed"))

    old.health = health(NodeState.DOWN)
    fleets.replace(fleet(local, new))
    old.health = health(NodeState.UP)
    assert heard == ["changed", "changed"]

    new.health = health(NodeState.DOWN)
    fill(local).give(key("m"), NOW, None)
    fill(old).give(key("m"), NOW, None)
    assert heard == ["changed", "changed", "changed", "freed"]
    assert fleets.current.others == (new,)


def test_health_learned_outlives_the_fleet() -> None:
    local, one = upstream("local"), eject(upstream("r1=h1"))
    fleets = Fleets(fleet(local, one))

    fleets.replace(fleet(local, one))

    assert fleets.current.others[0].health.since_wall == WALL
    assert not fleets.current.others[0].available(NOW)


def test_node_that_left_is_known_until_its_last_call_has_ended() -> None:
    local, going, idle = upstream("local"), upstream("r1=h1"), upstream("r2=h2")
    fleets = Fleets(fleet(local, going, idle))
    going.take(None)

    fleets.replace(fleet(local))
    told: list[tuple[object, ...]] = []
    fleets.changed.subscribe(lambda: told.append(fleets.leaving))
    going.health = health(NodeState.DOWN)
    going.give(None, NOW, None)
    going.health = health(NodeState.UP)
    idle.health = health(NodeState.DOWN)

    # It went down, and it left; what it does after that is nobody's business.
    assert told == [(going,), ()]
    assert fleets.leaving == ()


def test_node_that_comes_back_while_calls_are_there_is_not_leaving() -> None:
    local, going = upstream("local"), upstream("r1=h1")
    fleets = Fleets(fleet(local, going))
    going.take(None)
    fleets.replace(fleet(local))

    fleets.replace(fleet(local, going))
    changes: list[None] = []
    fleets.changed.subscribe(lambda: changes.append(None))
    going.give(None, NOW, None)
    going.health = health(NodeState.DOWN)

    assert fleets.leaving == ()
    assert len(changes) == 1
