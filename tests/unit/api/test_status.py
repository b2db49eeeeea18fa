import pytest

from ollama_wrap.call import Mode
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.health import NodeState
from tests.fakes.nodes import eject, fleet, upstream
from tests.unit.api.sidecar import BEARER, PUBLIC, Sidecar

UP, DOWN, JOINING = NodeState.UP, NodeState.DOWN, NodeState.JOINING


def two(local: NodeState, other: NodeState, mode: Mode = Mode.DISTRIBUTED) -> Fleet:
    return fleet(upstream("local", state=local), upstream("r1=h", state=other), mode=mode)


@pytest.mark.parametrize(
    "nodes, word, local, up",
    [
        (two(UP, UP), "healthy", True, 1),
        (two(NodeState.SUSPECT, NodeState.WARMING), "healthy", True, 1),
        (two(UP, DOWN), "degraded", True, 0),
        (two(DOWN, UP), "degraded", False, 1),
        (two(DOWN, DOWN), "unhealthy", False, 0),
        (two(DOWN, NodeState.DRAINING), "unhealthy", False, 1),
        # What is not used can neither serve nor be missed.
        (two(UP, UP, Mode.LOCAL), "healthy", True, 0),
        (two(UP, DOWN, Mode.STANDALONE), "healthy", True, 0),
        (two(DOWN, UP, Mode.LOCAL), "unhealthy", False, 0),
    ],
)
async def test_health_says_whether_anything_can_serve(
    nodes: Fleet, word: str, local: bool, up: int
) -> None:
    got = await Sidecar(nodes).get("/health")

    assert got.json == {
        "status": word,
        "mode": nodes.mode.value,
        "local": local,
        "nodes": {"up": up, "known": 1},
    }
    assert got.status == (503 if word == "unhealthy" else 200)
    assert ("retry-after" in got.headers) is (got.status == 503)


async def test_node_behind_an_open_circuit_cannot_serve() -> None:
    sidecar = Sidecar(fleet(upstream("local", state=DOWN), eject(upstream("r1=h"))))

    got = await sidecar.get("/health")

    assert got.json["status"] == "unhealthy"


async def test_s54_health_names_no_models_and_no_nodes_to_strangers() -> None:
    sidecar = Sidecar(fleet(upstream("local", ["secret-model"]), upstream("r1=hidden.example")))

    for path in ("/health", "/health/live", "/health/ready"):
        got = await sidecar.get(path, client=PUBLIC, host="anything.example")

        assert got.status == 200
        for word in (b"secret-model", b"hidden", b"r1", b"tower", b"0.1.0"):
            assert word not in got.body


async def test_process_is_alive_whatever_nodes_do() -> None:
    sidecar = Sidecar(two(DOWN, DOWN))
    sidecar.draining = True

    got = await sidecar.get("/health/live")

    assert (got.status, got.json) == (200, {"status": "alive"})


async def test_ready_once_the_local_ollama_was_asked_though_it_is_away() -> None:
    sidecar = Sidecar(two(DOWN, DOWN))
    sidecar.ready = False

    before = await sidecar.get("/health/ready")
    sidecar.ready = True
    after = await sidecar.get("/health/ready")

    assert (before.status, before.json) == (503, {"status": "starting"})
    assert before.headers["retry-after"] == "1"
    assert (after.status, after.json) == (200, {"status": "ready"})


async def test_draining_sidecar_is_not_ready() -> None:
    sidecar = Sidecar()
    sidecar.draining = True

    got = await sidecar.get("/health/ready")

    assert (got.status, got.json) == (503, {"status": "draining"})


async def test_metrics_are_prometheus_text() -> None:
    sidecar = Sidecar()
    sidecar.metrics.retry("connect")

    got = await sidecar.get("/metrics")

    assert got.status == 200
    assert got.headers["content-type"].startswith("text/plain; version=")
    assert b'ollama_wrap_retries_total{reason="connect"} 1.0\n' in got.body


async def test_s54_metrics_are_closed_to_strangers() -> None:
    sidecar = Sidecar()

    assert (await sidecar.get("/metrics", client=PUBLIC)).status == 401
    assert (await sidecar.get("/metrics", BEARER, client=PUBLIC)).status == 200


async def test_local_ollama_that_has_just_started_is_there() -> None:
    starting = await Sidecar(two(JOINING, UP)).get("/health")

    assert starting.json["local"] is True
