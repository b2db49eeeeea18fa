from dataclasses import replace
from typing import Any

import pytest

from ollama_wrap.backends import sidecar as sidecars
from ollama_wrap.backends.client import Answer
from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.sidecar import Sidecar as Peer
from ollama_wrap.observe.ended import Ended
from ollama_wrap.proxy.running import Open
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.reply import Origin, Reply
from tests.fakes.nodes import fill, fleet, health, key, listed, upstream
from tests.unit.api.sidecar import BEARER, PRIVATE, PUBLIC, Sidecar

BASE = "/api/distributed"


def ended(status: int = 200, duration: float = 2.0) -> Ended:
    return Ended(
        id="1",
        method="POST",
        path="/api/chat",
        operation="chat",
        model="m",
        node="r1",
        reason="busy",
        fallback=None,
        attempts=(),
        status=status,
        bytes_out=1,
        tokens=1,
        first_byte=None,
        duration=duration,
        error=None,
    )


def opened(sidecar: Sidecar, **facts: Any) -> Open:
    """A call that runs now."""
    clock = sidecar.clock
    call = Call("req-1", "POST", b"/api/chat", "/api/chat", [], started=clock.monotonic(), **facts)
    return sidecar.running.add(call, None, Tap(clock.monotonic, 0), clock.now())


# ---------------------------------------------------------------- status


async def test_status_of_two_nodes() -> None:
    local = fill(upstream("local", loaded=["m"], slots=4), calls=2)
    sidecar = Sidecar(fleet(local, upstream("r1=h1:11434", loaded=["m"])))
    sidecar.clock.advance(60.0)
    sidecar.metrics.ended(ended(), Kind.INFER)
    sidecar.metrics.ended(ended(502, duration=1.0), Kind.INFER)
    sidecar.metrics.waiting(1)
    opened(sidecar)
    opened(sidecar)

    got = await sidecar.get(f"{BASE}/status")

    assert got.json == {
        "distributed_mode": True,
        "mode": "distributed",
        "mode_reason": "setting",
        "fallback_mode": True,
        "node_id": "tower",
        "cluster_size": 2,
        "active_nodes": 2,
        "leader": None,
        "version": "0.1.0",
        "scheduler_stats": {
            "total_requests": 4,
            "completed_requests": 1,
            "failed_requests": 1,
            "queued_requests": 1,
            "in_flight": 1,
            "average_latency": 1500.0,
            "fallbacks": 0,
            "retries": 0,
            "cache_hits": 0,
        },
        "runner_stats": {
            "loaded_models": 1,
            "active_runners": 2,
            "by_node": {
                "tower": {"in_flight": 2, "slots": 4, "loaded": ["m"]},
                "r1": {"in_flight": 0, "slots": None, "loaded": ["m"]},
            },
        },
        "integration_stats": {
            "local_addr": "http://127.0.0.1:11436",
            "local_healthy": True,
            "uptime": 60.0,
            "listen": ["127.0.0.1:11434"],
            "store": "memory",
            "store_healthy": True,
            "overload": [],
        },
    }


async def test_status_invents_no_numbers() -> None:
    local = upstream("local", state=NodeState.DOWN)
    sidecar = Sidecar(fleet(local, mode=Mode.LOCAL))
    sidecar.store.away = True

    shape = (await sidecar.get(f"{BASE}/status")).json

    assert shape["active_nodes"] == 0
    assert shape["scheduler_stats"]["average_latency"] is None
    assert shape["runner_stats"]["active_runners"] is None
    assert shape["runner_stats"]["by_node"]["tower"]["loaded"] is None
    assert shape["integration_stats"]["local_healthy"] is False
    assert shape["integration_stats"]["store_healthy"] is False


# ---------------------------------------------------------------- nodes, models


async def test_nodes_are_listed_local_first() -> None:
    sidecar = Sidecar(fleet(upstream("local"), upstream("b=h"), upstream("a=h2")))

    shape = (await sidecar.get(f"{BASE}/nodes")).json

    assert [one["id"] for one in shape["nodes"]] == ["tower", "b", "a"]


async def test_s54_nodes_do_not_show_what_is_sent_to_them() -> None:
    sidecar = Sidecar(
        fleet(upstream("local"), upstream("r1=h;header=Authorization:Bearer hunter2"))
    )

    for path in ("nodes", "status", "models", "metrics"):
        assert b"hunter2" not in (await sidecar.get(f"{BASE}/{path}")).body


async def test_models_are_named_once_with_all_their_nodes() -> None:
    local = upstream("local", {"m": "d1"}, loaded=["m"])
    sidecar = Sidecar(fleet(local, upstream("r1=h", {"m": "d2", "n": "d3"})))

    shape = (await sidecar.get(f"{BASE}/models")).json

    assert [(one["name"], one["conflict"]) for one in shape["models"]] == [
        ("m", True),
        ("n", False),
    ]
    assert shape["models"][0]["nodes"] == [
        {"id": "tower", "digest": "d1", "loaded": True},
        {"id": "r1", "digest": "d2", "loaded": False},
    ]


@pytest.mark.parametrize("spelling", ["m", "M:latest", "library/m", "library/m:LATEST"])
async def test_replicas_are_found_by_any_spelling_of_the_model(spelling: str) -> None:
    got = await Sidecar().get(f"{BASE}/models/{spelling}/replicas")

    assert got.status == 200
    assert [one["id"] for one in got.json["replicas"]] == ["tower", "r1"]


@pytest.mark.parametrize(
    "spelling, status, code",
    [
        ("nobody-has-it", 404, "MODEL_NOT_FOUND"),
        ("hf.co/a/b:q4", 404, "MODEL_NOT_FOUND"),
        ("..%2f..%2fetc", 400, "BAD_REQUEST"),
        ("%00", 400, "BAD_REQUEST"),
        ("m" * 2000, 400, "BAD_REQUEST"),
    ],
)
async def test_replicas_of_what_is_nowhere(spelling: str, status: int, code: str) -> None:
    got = await Sidecar().get(f"{BASE}/models/{spelling}/replicas")

    assert (got.status, got.code) == (status, code)


# ---------------------------------------------------------------- ping


async def test_ping_is_what_other_sidecars_read() -> None:
    local = fill(upstream("local", loaded=["m"], slots=2))
    sidecar = Sidecar(fleet(local))
    sidecar.metrics.waiting(3)

    got = await sidecar.get(f"{BASE}/ping", client=PRIVATE)
    probe = sidecars.read(Answer(got.status, got.body, "10.0.0.1"))

    assert probe is not None
    assert probe.wall == sidecar.clock.now()
    assert probe.sidecar == Peer(
        id="tower",
        boot="0f0f",
        proto=(1, 1),
        ollama=True,
        in_flight=1,
        queued=3,
        slots=2,
        loaded=(key("m"),),
        drain=False,
        models_version=got.json["models_version"],
    )


@pytest.mark.parametrize(
    "state, ollama, drain",
    [
        (NodeState.UP, True, False),
        (NodeState.SUSPECT, True, False),
        (NodeState.DOWN, False, False),
        (NodeState.DRAINING, True, True),
    ],
)
async def test_ping_says_how_the_local_ollama_is(
    state: NodeState, ollama: bool, drain: bool
) -> None:
    shape = (await Sidecar(fleet(upstream("local", state=state))).get(f"{BASE}/ping")).json

    assert (shape["ollama"], shape["drain"]) == (ollama, drain)


async def test_ping_of_an_ollama_that_has_not_answered_yet() -> None:
    local = upstream("local", state=NodeState.JOINING)
    local.health = replace(local.health, greeted=False)

    shape = (await Sidecar(fleet(local)).get(f"{BASE}/ping")).json

    assert shape["ollama"] is False


async def test_ping_of_a_process_that_drains_says_so() -> None:
    sidecar = Sidecar()
    sidecar.draining = True

    assert (await sidecar.get(f"{BASE}/ping")).json["drain"] is True


async def test_version_of_the_models_changes_when_they_do() -> None:
    local = upstream("local", {"m": "d1"})
    sidecar = Sidecar(fleet(local))

    async def version() -> str:
        return str((await sidecar.get(f"{BASE}/ping")).json["models_version"])

    first = await version()
    local.inventory = listed({"m": "d1"}, loaded=["m"])
    same = await version()
    local.inventory = listed({"m": "d2"})
    pulled = await version()
    local.inventory = listed({"m": "d2", "n": "d3"})
    more = await version()

    assert first == same
    assert len({first, pulled, more}) == 3


async def test_ping_fits_into_4_kib_whatever_is_loaded() -> None:
    names = [f"{'n' * 70}{number}" for number in range(200)]
    sidecar = Sidecar(fleet(upstream("local", names, loaded=names)))

    got = await sidecar.get(f"{BASE}/ping")

    assert len(got.body) <= sidecars.CAP
    assert 10 < len(got.json["loaded"]) < 200


# ---------------------------------------------------------------- requests


async def test_running_requests_are_listed_without_what_they_say() -> None:
    sidecar = Sidecar()
    one = opened(sidecar, model="m", kind=Kind.INFER, caller="key-ab", body=b"a secret prompt")
    one.reply = Reply(200, [], origin=Origin(node="r1", reason="busy"))
    sidecar.clock.advance(0.25)
    one.tap.feed([b"x"])

    got = await sidecar.get(f"{BASE}/requests")

    assert b"secret" not in got.body
    assert got.json == {
        "requests": [
            {
                "id": one.number,
                "request_id": "req-1",
                "model": "m",
                "node": "r1",
                "kind": "infer",
                "caller": "key-ab",
                "started": "2023-11-14T22:13:20.000Z",
                "first_byte": 0.25,
                "tokens": None,
                "reason": "busy",
            }
        ]
    }


async def test_request_that_no_node_has_answered_yet_has_no_node() -> None:
    sidecar = Sidecar()
    opened(sidecar, model="\ud800")

    (shape,) = (await sidecar.get(f"{BASE}/requests")).json["requests"]

    assert (shape["node"], shape["reason"], shape["first_byte"]) == (None, None, None)


async def test_request_is_ended_by_its_id() -> None:
    sidecar = Sidecar()
    one, other = opened(sidecar), opened(sidecar)
    ends: list[str] = []
    one.cancel = lambda: ends.append("one")
    other.cancel = lambda: ends.append("other")

    got = await sidecar.ask("DELETE", f"{BASE}/requests/{one.number}", BEARER)

    assert (got.status, got.json) == (200, {"id": one.number, "ended": True})
    assert ends == ["one"]
    assert (one.ended_by_operator, other.ended_by_operator) == (True, False)


@pytest.mark.parametrize("number", ["99", "req-1", "0", "-1"])
async def test_ending_a_request_that_is_not_there_is_404(number: str) -> None:
    sidecar = Sidecar()
    opened(sidecar)

    got = await sidecar.ask("DELETE", f"{BASE}/requests/{number}", BEARER)

    assert (got.status, got.code) == (404, "NOT_FOUND")


@pytest.mark.parametrize("client", [PRIVATE, PUBLIC])
async def test_s43_ending_requests_from_elsewhere_takes_the_token(client: str) -> None:
    sidecar = Sidecar(token=None)
    one = opened(sidecar)

    got = await sidecar.ask("DELETE", f"{BASE}/requests/{one.number}", client=client)

    assert got.status == 403
    assert not one.ended_by_operator


async def test_s43_form_ends_no_request() -> None:
    sidecar = Sidecar(token=None)
    one = opened(sidecar)
    form = ("Content-Type", "application/x-www-form-urlencoded")

    got = await sidecar.ask("DELETE", f"{BASE}/requests/{one.number}", form)

    assert got.status == 415
    assert not one.ended_by_operator


async def test_s43_reading_a_request_ends_nothing() -> None:
    sidecar = Sidecar()
    one = opened(sidecar)

    got = await sidecar.get(f"{BASE}/requests/{one.number}", BEARER)

    assert got.status == 405
    assert not one.ended_by_operator


# ---------------------------------------------------------------- metrics


async def test_metrics_are_the_numbers_of_prometheus_as_json() -> None:
    sidecar = Sidecar()
    sidecar.metrics.retry("connect")

    shape = (await sidecar.get(f"{BASE}/metrics")).json

    assert shape["ollama_wrap_retries_total"] == [{"labels": {"reason": "connect"}, "value": 1.0}]


async def test_questions_of_our_own_are_counted_as_no_requests() -> None:
    sidecar = Sidecar()
    local = sidecar.fleets.current.local
    local.health = health(NodeState.UP)

    for path in ("/health", f"{BASE}/ping", "/metrics", f"{BASE}/nodes"):
        await sidecar.get(path)

    assert sidecar.metrics.totals().ended == 0
    assert len(sidecar.running) == 0
