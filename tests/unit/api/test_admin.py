import pytest

from ollama_wrap.call import Mode
from ollama_wrap.cluster.choices import Overridable
from tests.fakes.nodes import fleet, upstream
from tests.unit.api.sidecar import BEARER, PUBLIC, TOKEN, Sidecar

ROUTES = [("POST", "/admin/mode"), ("POST", "/admin/fallback"), ("GET", "/admin/stats")]


def bearer(text: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {text}")


# ---------------------------------------------------------------- who may come


@pytest.mark.parametrize("token", [None, "", "short77"])
@pytest.mark.parametrize("method, path", ROUTES)
async def test_s47_without_a_usable_token_admin_is_closed_even_from_loopback(
    method: str, path: str, token: str | None
) -> None:
    sidecar = Sidecar(token=token)

    for sent in ([], [bearer(token or "")], [("Cookie", "session=1")]):
        got = await sidecar.ask(method, path, *sent, body=b'{"mode":"local"}')

        assert (got.status, got.code) == (403, "ADMIN_DISABLED")
        assert "OLLAMA_ADMIN_TOKEN" in got.json["error"]
    assert sidecar.mode is Mode.DISTRIBUTED


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "DELETE"])
async def test_s47_closed_admin_says_so_whatever_is_sent(method: str) -> None:
    got = await Sidecar(token=None).ask(method, "/admin/mode")

    assert (got.status, got.code) == (403, "ADMIN_DISABLED")


@pytest.mark.parametrize("length", range(len(TOKEN)))
async def test_s48_beginning_of_the_token_is_a_wrong_token(length: int) -> None:
    got = await Sidecar().get("/admin/stats", bearer(TOKEN[:length]))

    assert (got.status, got.code) == (401, "UNAUTHORIZED")
    assert got.headers["www-authenticate"] == "Bearer"


async def test_s48_too_many_wrong_tokens_are_429_and_told_when_to_come_back() -> None:
    sidecar = Sidecar()
    for _ in range(10):
        assert (await sidecar.get("/admin/stats", bearer("wrong"))).status == 401

    blocked = await sidecar.get("/admin/stats", BEARER)
    elsewhere = await sidecar.get("/admin/stats", BEARER, client=PUBLIC)

    assert (blocked.status, blocked.code) == (429, "RATE_LIMITED")
    assert int(blocked.headers["retry-after"]) > 0
    assert elsewhere.status == 200


@pytest.mark.parametrize(
    "sent",
    [
        ("Cookie", f"token={TOKEN}"),
        ("X-API-Key", TOKEN),
        ("Authorization", TOKEN),
        ("Authorization", f"Basic {TOKEN}"),
    ],
)
async def test_s43_only_a_bearer_header_is_a_credential(sent: tuple[str, str]) -> None:
    got = await Sidecar().ask("POST", "/admin/mode", sent, body=b'{"mode":"local"}')

    assert got.status == 401


# ---------------------------------------------------------------- mode


async def test_mode_that_is_chosen_holds_when_it_is_answered() -> None:
    sidecar = Sidecar()

    got = await sidecar.post("/admin/mode", {"mode": "local"}, BEARER)

    assert got.status == 200
    assert got.json == {"mode": "local", "previous": "distributed", "reason": "admin"}
    assert got.headers["x-ollama-distributed"] == "false"
    assert sidecar.mode is Mode.LOCAL


async def test_choice_outlives_a_restart() -> None:
    sidecar = Sidecar()
    await sidecar.post("/admin/mode", {"mode": "standalone"}, BEARER)
    await sidecar.post("/admin/fallback", {"enabled": False}, BEARER)
    later = Sidecar()
    await later.store.set("choice:mode", await sidecar.store.get("choice:mode") or b"")
    await later.store.set("choice:fallback", await sidecar.store.get("choice:fallback") or b"")

    await later.choices.load()

    assert later.choices.mode is Mode.STANDALONE
    assert later.choices.fallback is False


async def test_distributed_without_a_node_is_not_claimed_to_hold() -> None:
    settings = Overridable(distributed=False, standalone=False, fallback=True)
    sidecar = Sidecar(fleet(upstream("local"), mode=Mode.LOCAL), settings=settings)

    got = await sidecar.post("/admin/mode", {"mode": "distributed"}, BEARER)

    assert got.json == {"mode": "local", "previous": "local", "reason": "no-nodes"}


@pytest.mark.parametrize("word", ["", "Local", "auto", 1, None, True, ["local"], {}])
async def test_unknown_mode_changes_nothing(word: object) -> None:
    sidecar = Sidecar()

    got = await sidecar.post("/admin/mode", {"mode": word}, BEARER)

    assert (got.status, got.code) == (400, "INVALID_MODE")
    assert got.json["details"] == {"modes": ["local", "distributed", "standalone"]}
    assert sidecar.choices.mode is None


async def test_mode_that_cannot_be_stored_changes_nothing() -> None:
    sidecar = Sidecar()
    sidecar.store.away = True

    got = await sidecar.post("/admin/mode", {"mode": "local"}, BEARER)

    assert (got.status, got.code) == (503, "STATE_UNAVAILABLE")
    assert sidecar.mode is Mode.DISTRIBUTED
    assert sidecar.choices.mode is None


# ---------------------------------------------------------------- fallback


async def test_fallback_is_switched_and_the_previous_said() -> None:
    sidecar = Sidecar()

    off = await sidecar.post("/admin/fallback", {"enabled": False}, BEARER)
    again = await sidecar.post("/admin/fallback", {"enabled": False}, BEARER)

    assert off.json == {"enabled": False, "previous": True}
    assert again.json == {"enabled": False, "previous": False}
    assert sidecar.choices.fallback is False


@pytest.mark.parametrize("value", [0, 1, "true", None, [], {}])
async def test_fallback_takes_true_or_false_and_nothing_like_it(value: object) -> None:
    sidecar = Sidecar()

    got = await sidecar.post("/admin/fallback", {"enabled": value}, BEARER)

    assert (got.status, got.code) == (400, "BAD_REQUEST")
    assert sidecar.choices.fallback is True


async def test_fallback_that_cannot_be_stored_changes_nothing() -> None:
    sidecar = Sidecar()
    sidecar.store.away = True

    got = await sidecar.post("/admin/fallback", {"enabled": False}, BEARER)

    assert (got.status, got.code) == (503, "STATE_UNAVAILABLE")
    assert sidecar.choices.fallback is True


# ---------------------------------------------------------------- stats


async def test_stats_count_what_is_known() -> None:
    local = upstream("local", ["a", "b"], loaded=["a"])
    sidecar = Sidecar(fleet(local, upstream("r1=h", ["b", "c"], loaded=["b", "c"])))
    sidecar.clock.advance(12.5)

    shape = (await sidecar.get("/admin/stats", BEARER)).json

    assert list(shape) == [
        "mode",
        "uptime",
        "cluster_size",
        "active_nodes",
        "total_models",
        "distributed_models",
        "active_runners",
        "scheduler_stats",
        "runner_stats",
        "integration_stats",
    ]
    assert (shape["mode"], shape["uptime"]) == ("distributed", 12.5)
    assert (shape["cluster_size"], shape["active_nodes"]) == (2, 2)
    assert (shape["total_models"], shape["distributed_models"]) == (3, 1)
    assert shape["active_runners"] == 3


async def test_stats_are_the_same_as_those_of_status() -> None:
    sidecar = Sidecar()

    stats = (await sidecar.get("/admin/stats", BEARER)).json
    status = (await sidecar.get("/api/distributed/status")).json

    names = ("scheduler_stats", "runner_stats", "integration_stats")
    assert [stats[name] for name in names] == [status[name] for name in names]
