from dataclasses import replace

import pytest

from ollama_wrap.api import shapes
from ollama_wrap.call import Mode
from ollama_wrap.nodes.health import Health, NodeState
from ollama_wrap.nodes.inventory import Inventory, Model
from ollama_wrap.nodes.node import parse_nodes
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream
from tests.fakes.nodes import NOW, WALL, eject, fill, fleet, key, listed, upstream

SINCE = "2023-11-14T22:13:20.000Z"


def unasked(text: str = "r1=h") -> Upstream:
    """A node that nobody has asked yet."""
    (node,) = parse_nodes(text)
    return Upstream(node)


def test_node_that_is_known_well() -> None:
    node = fill(upstream("r1=h:11434;weight=50;priority=2", ["b", "a"], loaded=["a"], slots=4))
    node.inventory = replace(node.inventory, version="0.33.0")
    node.latency = 0.25

    assert shapes.node(node, NOW, waiting=7) == {
        "id": "r1",
        "address": "http://h:11434",
        "kind": "ollama",
        "sidecar": False,
        "status": "up",
        "status_since": SINCE,
        "last_seen": SINCE,
        "version": "0.33.0",
        "models": ["a", "b"],
        "loaded": ["a"],
        "in_flight": 1,
        "queued": None,
        "slots": 4,
        "weight": 50,
        "priority": 2,
        "circuit": "closed",
        "latency": 250.0,
        "capacity": None,
        "usage": None,
        "error": None,
    }


def test_of_a_node_that_was_never_asked_nothing_is_invented() -> None:
    shape = shapes.node(unasked(), NOW, waiting=0)

    unknown = {name for name, value in shape.items() if value is None}
    assert unknown == {
        *("status_since", "last_seen", "version", "models", "loaded", "queued", "slots"),
        *("latency", "capacity", "usage", "error"),
    }
    assert shape["status"] == "joining"


def test_local_node_is_a_sidecar_and_calls_wait_here() -> None:
    shape = shapes.node(upstream("local"), NOW, waiting=7)

    assert (shape["sidecar"], shape["queued"]) == (True, 7)


def test_sidecars_word_of_its_load_is_taken() -> None:
    node = upstream("r1=h")
    node.sidecar = Sidecar("tower2", in_flight=5, queued=2, slots=3)

    shape = shapes.node(node, NOW, waiting=7)

    assert shape["sidecar"] is True
    assert (shape["in_flight"], shape["queued"], shape["slots"]) == (5, 2, 3)


def test_state_that_comes_from_the_sidecars_word_has_no_known_beginning() -> None:
    node = upstream("r1=h")
    node.sidecar = Sidecar("tower2", drain=True)

    shape = shapes.node(node, NOW, waiting=0)

    assert (shape["status"], shape["status_since"]) == ("draining", None)


def test_open_circuit_is_shown() -> None:
    assert shapes.node(eject(upstream("r1=h")), NOW, waiting=0)["circuit"] == "open"


def test_what_a_node_that_is_down_has_loaded_is_not_known() -> None:
    node = upstream("r1=h", loaded=["m"], state=NodeState.DOWN)

    shape = shapes.node(node, NOW, waiting=0)

    assert (shape["models"], shape["loaded"]) == (["m"], None)


@pytest.mark.parametrize(
    "state, yes",
    [
        (NodeState.UP, True),
        (NodeState.SUSPECT, True),
        (NodeState.WARMING, True),
        (NodeState.DRAINING, True),
        (NodeState.JOINING, True),
        (NodeState.DOWN, False),
    ],
)
def test_node_answers_as_its_probes_say(state: NodeState, yes: bool) -> None:
    assert shapes.answers(upstream("r1=h", state=state)) is yes


def test_sidecar_whose_ollama_is_away_does_not_answer() -> None:
    node = upstream("r1=h")
    node.sidecar = Sidecar("tower2", ollama=False)

    assert not shapes.answers(node)


def test_node_that_has_not_greeted_does_not_answer() -> None:
    node = upstream("r1=h")
    node.health = Health()

    assert not shapes.answers(node)


def test_nodes_that_are_not_used_are_not_active() -> None:
    nodes = (upstream("local"), upstream("r1=h"))

    assert shapes.active(fleet(*nodes)) == 2
    assert shapes.active(fleet(*nodes, mode=Mode.STANDALONE)) == 1


def test_model_that_an_earlier_run_saw_is_listed_without_what_is_not_known() -> None:
    node = unasked()
    node.inventory = Inventory(seen={key("big"): WALL})

    nodes = fleet(upstream("local", []), node)

    assert shapes.models(nodes) == [
        {
            "name": "big:latest",
            "digest": None,
            "size": None,
            "details": None,
            "nodes": [{"id": "r1", "digest": None, "loaded": None}],
            "conflict": False,
        }
    ]
    assert shapes.replicas(nodes, key("big")) == {
        "model": "big:latest",
        "replicas": [
            {"id": "r1", "status": "joining", "digest": None, "loaded": None, "last_seen": SINCE}
        ],
        "conflict": False,
    }


@pytest.mark.parametrize(
    "raw, details",
    [
        (b'{"details":{"family":"llama"}}', {"family": "llama"}),
        (b"{}", None),
        (b"", None),
        (b"[]", None),
        (b'{"details":\xff}', None),
        (b"[" * 100_000, None),
    ],
)
def test_details_are_the_nodes_own(raw: bytes, details: object) -> None:
    local = upstream("local")
    local.inventory = Inventory().listed([Model("m", key("m"), "d1", size=9, raw=raw)], WALL)

    (shape,) = shapes.models(fleet(local))

    assert (shape["details"], shape["size"], shape["digest"]) == (details, 9, "d1")


def test_stubs_of_cloud_models_are_only_held_here() -> None:
    stub = Model("big:cloud", key("big"), "d1", remote=True)
    local, other = upstream("local"), upstream("r1=h")
    local.inventory = other.inventory = Inventory().listed([stub], WALL)

    (shape,) = shapes.models(fleet(local, other))

    assert shape["nodes"] == [{"id": "tower", "digest": "d1", "loaded": False}]


def test_model_is_loaded_under_another_name_of_the_same_digest() -> None:
    local = upstream("local")
    local.inventory = listed({"a": "d1", "b": "d1"}, loaded=["a"])

    rows = shapes.models(fleet(local))

    assert [row["nodes"] for row in rows] == [
        [{"id": "tower", "digest": "d1", "loaded": True}],
        [{"id": "tower", "digest": "d1", "loaded": True}],
    ]


def test_model_that_nobody_holds_has_no_replicas() -> None:
    assert shapes.replicas(fleet(upstream("local")), key("other")) is None


def test_runners_count_models_once_and_copies_each() -> None:
    nodes = fleet(upstream("local", loaded=["m"]), upstream("r1=h", ["m", "n"], loaded=["m", "n"]))

    shape = shapes.runners(nodes)

    assert (shape["loaded_models"], shape["active_runners"]) == (2, 3)


def test_ping_of_a_sidecar_tells_what_is_loaded_before_its_lists_do() -> None:
    node = unasked()
    node.sidecar = Sidecar("tower2", loaded=(key("m"),))

    assert shapes.loaded(node) == ["m:latest"]


def test_names_that_do_not_fit_are_left_out() -> None:
    assert shapes.fitting(["aa", "bb", "cc"], 10) == ["aa", "bb"]


def test_fingerprint_does_not_hang_on_the_order() -> None:
    one, other = listed({"a": "1", "b": "2"}), listed({"b": "2", "a": "1"})

    first, second = shapes.Fingerprint().of(one.models), shapes.Fingerprint().of(other.models)

    assert first == second
    assert len(first) == 16


def test_fingerprint_of_one_list_is_made_once() -> None:
    models = dict(listed({"a": "1"}).models)
    fingerprint = shapes.Fingerprint()
    first = fingerprint.of(models)
    models.clear()

    assert fingerprint.of(models) == first
    assert shapes.Fingerprint().of(models) != first


def test_fingerprint_is_made_anew_for_a_new_list() -> None:
    fingerprint = shapes.Fingerprint()
    first = fingerprint.of(listed({"a": "1"}).models)

    assert fingerprint.of(listed({"a": "2"}).models) != first
    assert fingerprint.of(listed({"a": "1"}).models) == first


@pytest.mark.parametrize("wall, text", [(None, None), (0.0, None), (WALL, SINCE)])
def test_moments_are_utc(wall: float | None, text: str | None) -> None:
    assert shapes.moment(wall) == text
