import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette

from ollama_wrap.api.own import MOST, Own
from ollama_wrap.api.routes import ROWS
from ollama_wrap.api.scopes import Scopes
from ollama_wrap.api.surface import Answer, Asked, Parts, Row, Scope
from ollama_wrap.call import Mode
from ollama_wrap.errors import CallerError
from tests.fakes.nodes import fleet, upstream
from tests.unit.api.sidecar import BEARER, PRIVATE, PUBLIC, TOKEN, Got, Sidecar

READ = "/api/distributed/status"
OPEN = "/health/live"
BYTES = (b"authorization", f"Bearer {TOKEN}".encode())
BROWSER = ("Origin", "https://evil.example")
FORWARDED = [
    ("Forwarded", "for=127.0.0.1"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("X-Real-IP", "127.0.0.1"),
    ("CF-Connecting-IP", "127.0.0.1"),
]


def no_cors(got: Got) -> bool:
    return not any(name.startswith("access-control") for name in got.headers)


# ---------------------------------------------------------------- the door


@pytest.mark.parametrize(
    "path", [READ, "/api/distributed/requests", "/admin/stats", "/metrics", "/admin/nothing"]
)
async def test_s40_foreign_host_is_refused_and_told_the_setting(path: str) -> None:
    got = await Sidecar().get(path, host="attacker.example")

    assert (got.status, got.code) == (403, "FORBIDDEN")
    assert "OLLAMA_WRAP_ALLOWED_HOSTS" in got.json["error"]


async def test_s40_foreign_host_with_the_token_comes_in() -> None:
    got = await Sidecar().get(READ, BEARER, host="attacker.example")

    assert got.status == 200


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_s40_health_does_not_ask_for_the_host(path: str) -> None:
    got = await Sidecar().get(path, host="10.2.3.4.nip.example", client=PUBLIC)

    assert got.status == 200


@pytest.mark.parametrize("path", ["/admin/mode", READ, "/api/distributed/requests/1", "/metrics"])
async def test_s42_preflight_from_a_foreign_origin_gets_no_cors_headers(path: str) -> None:
    wish = ("Access-Control-Request-Method", "POST")

    bare = await Sidecar(token=None).ask("OPTIONS", path, BROWSER, wish)
    with_token = await Sidecar().ask("OPTIONS", path, BROWSER, wish, BEARER)

    assert bare.status in {403, 405}
    assert with_token.status == 405
    assert no_cors(bare)
    assert no_cors(with_token)


async def test_s42_answers_to_browsers_carry_no_cors_headers() -> None:
    got = await Sidecar().get(READ, BEARER, ("Origin", "http://localhost:3000"))

    assert got.status == 200
    assert no_cors(got)


async def test_path_is_the_raw_one_whatever_the_host_says() -> None:
    # A URL put together as `http://` + Host + path would end its authority at the `?`.
    got = await Sidecar().get("/admin/stats", host="localhost/health?")

    assert got.status == 403


# ---------------------------------------------------------------- scopes, method, path


BY_SCOPE = {
    Scope.OPEN: ("GET", "/health/live"),
    Scope.READ: ("GET", "/api/distributed/nodes"),
    Scope.REQUESTS: ("GET", "/api/distributed/requests"),
    Scope.WRITE: ("DELETE", "/api/distributed/requests/9"),
    Scope.ADMIN: ("GET", "/admin/stats"),
}
# what each caller gets where no token is set, and what where one is and is not sent
GETS = {
    "127.0.0.1": {
        Scope.OPEN: (200, 200),
        Scope.READ: (200, 200),
        Scope.REQUESTS: (200, 200),
        Scope.WRITE: (404, 401),
        Scope.ADMIN: (403, 401),
    },
    PRIVATE: {
        Scope.OPEN: (200, 200),
        Scope.READ: (200, 200),
        Scope.REQUESTS: (403, 401),
        Scope.WRITE: (403, 401),
        Scope.ADMIN: (403, 401),
    },
    PUBLIC: {
        Scope.OPEN: (200, 200),
        Scope.READ: (403, 401),
        Scope.REQUESTS: (403, 401),
        Scope.WRITE: (403, 401),
        Scope.ADMIN: (403, 401),
    },
}


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("client", GETS)
async def test_scope_lets_in_whom_it_should(client: str, scope: Scope) -> None:
    method, path = BY_SCOPE[scope]
    unset, unsent = GETS[client][scope]

    assert (await Sidecar(token=None).ask(method, path, client=client)).status == unset
    assert (await Sidecar().ask(method, path, client=client)).status == unsent


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("client", GETS)
async def test_token_opens_every_scope_to_everybody(client: str, scope: Scope) -> None:
    method, path = BY_SCOPE[scope]

    got = await Sidecar(protect="all").ask(method, path, BEARER, client=client)

    assert got.status == (404 if scope is Scope.WRITE else 200)


@pytest.mark.parametrize("mark", FORWARDED)
@pytest.mark.parametrize("scope", [Scope.READ, Scope.REQUESTS, Scope.WRITE, Scope.ADMIN])
async def test_loopback_behind_a_proxy_is_nobody_near(scope: Scope, mark: tuple[str, str]) -> None:
    method, path = BY_SCOPE[scope]

    got = await Sidecar(token=None).ask(method, path, mark)

    assert got.status == 403


@pytest.mark.parametrize("path", [READ, "/metrics", "/api/distributed/ping"])
async def test_s54_protect_closes_reading_to_private_addresses(path: str) -> None:
    got = await Sidecar(protect="all").get(path, client=PRIVATE)

    assert got.status == 401
    assert got.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("POST", READ, "GET, HEAD"),
        ("DELETE", "/health", "GET, HEAD"),
        ("PUT", "/metrics", "GET, HEAD"),
        ("GET", "/admin/mode", "POST"),
        ("HEAD", "/admin/fallback", "POST"),
        ("GET", "/api/distributed/requests/1", "DELETE"),
    ],
)
async def test_s43_wrong_method_is_405_and_told_the_right_ones(
    method: str, path: str, allow: str
) -> None:
    got = await Sidecar().ask(method, path, BEARER)

    assert got.status == 405
    assert got.headers["allow"] == allow
    if method != "HEAD":
        assert got.code == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(
    "path",
    [
        "/api/distributed/models/m",
        "/api/distributed/models/",
        "/api/distributed/requests/",
        "/api/distributed/requests/1/2",
        "/admin/",
        "/health/",
    ],
)
async def test_path_that_no_route_has_is_our_404(path: str) -> None:
    got = await Sidecar().get(path)

    assert (got.status, got.code) == (404, "NOT_FOUND")


async def test_head_is_answered_as_get_without_its_body() -> None:
    sidecar = Sidecar()
    whole = await sidecar.get(READ)

    head = await sidecar.ask("HEAD", READ)

    assert head.status == 200
    assert head.body == b""
    assert head.headers["content-length"] == str(len(whole.body))
    assert head.headers["content-type"] == "application/json"


# ---------------------------------------------------------------- headers


@pytest.mark.parametrize("mode", Mode)
async def test_every_answer_says_the_mode(mode: Mode) -> None:
    sidecar = Sidecar(fleet(upstream("local"), upstream("r1=h"), mode=mode))

    for got in (
        await sidecar.get(READ),
        await sidecar.get("/admin/stats"),
        await sidecar.get("/x"),
    ):
        assert got.headers["x-ollama-mode"] == mode.value
        assert got.headers["x-ollama-distributed"] == str(mode is Mode.DISTRIBUTED).lower()
        assert ("x-ollama-standalone-reason" in got.headers) is (mode is Mode.STANDALONE)
        assert "x-ollama-node" not in got.headers


async def test_request_id_is_the_clients_if_it_is_sane() -> None:
    sidecar = Sidecar()

    mine = await sidecar.get(OPEN, ("X-Request-ID", "mine-1"))
    odd = await sidecar.get(OPEN, ("X-Request-ID", "two words"))
    other = await sidecar.get(OPEN)

    assert mine.headers["x-request-id"] == "mine-1"
    assert odd.headers["x-request-id"] not in {"", "two words"}
    assert odd.headers["x-request-id"] != other.headers["x-request-id"]


async def test_server_that_knows_no_addresses_is_served_as_a_stranger() -> None:
    sidecar = Sidecar()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": READ, "headers": [], "server": ("/s", None)}
    await sidecar.app(scope, receive, send)

    assert sent[0]["status"] == 401


async def test_listener_on_ipv6_is_understood() -> None:
    got = await Sidecar().get(READ, client="::1", host="[::1]:11434")

    assert got.status == 200


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"{}",
        b'"local"',
        b'{"mode":"local"} x',
        b'{"mode":"local","mode":"standalone"}',
        b'{"mode":"local","force":true}',
        b'{"Mode":"local"}',
        b"\xef\xbb\xbf" + b'{"mode":"local"}',
        b'{"mode":"\xff"}',
        b'{"mode":' + b"9" * 5000 + b"}",
        b"[" * 60_000,
        b"mode=local",
        b'{"mode":"local"}'.ljust(MOST + 1),
    ],
)
async def test_body_that_is_not_what_was_asked_for_changes_nothing(body: bytes) -> None:
    sidecar = Sidecar()

    got = await sidecar.ask("POST", "/admin/mode", BEARER, body=body)

    assert (got.status, got.code) == (400, "BAD_REQUEST")
    assert sidecar.mode is Mode.DISTRIBUTED


async def test_query_is_no_body() -> None:
    sidecar = Sidecar()

    got = await sidecar.ask("POST", "/admin/mode?mode=local", BEARER)

    assert got.status == 400
    assert sidecar.mode is Mode.DISTRIBUTED


async def test_token_in_the_query_opens_nothing() -> None:
    got = await Sidecar().get(f"/admin/stats?token={TOKEN}&access_token={TOKEN}")

    assert got.status == 401


async def test_body_may_come_in_pieces() -> None:
    sidecar = Sidecar()
    pieces = [
        {"type": "http.request", "body": b'{"mode":', "more_body": True},
        {"type": "http.request", "body": b'"local"}', "more_body": False},
    ]

    got = await sidecar.ask("POST", "/admin/mode", BEARER, body=pieces)

    assert got.status == 200
    assert sidecar.mode is Mode.LOCAL


async def test_client_that_leaves_in_mid_body_changes_nothing() -> None:
    sidecar = Sidecar()
    pieces = [{"type": "http.request", "body": b'{"mode":"local"}', "more_body": True}]

    got = await sidecar.ask("POST", "/admin/mode", BEARER, body=pieces)

    assert got.status == 400
    assert sidecar.mode is Mode.DISTRIBUTED


async def test_no_body_is_read_before_the_door_says_yes() -> None:
    endless = [{"type": "http.request", "body": b"{}", "more_body": True}]

    got = await Sidecar().ask("POST", "/admin/mode", body=endless)

    assert got.status == 401


async def test_body_that_does_not_come_in_time_changes_nothing() -> None:
    sidecar = Sidecar()
    scopes = Scopes(sidecar.door.token, protect="off", tokens=False)
    own = Own(sidecar.door, scopes, sidecar.parts, within=0)
    call = own.call({"method": "POST", "path": "/admin/mode", "headers": [BYTES]})
    row = next(row for row in ROWS if row.path == "/admin/mode")

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    with pytest.raises(CallerError) as raised:
        await own.answer(call, row, {"path_params": {}}, never)

    assert (raised.value.status, raised.value.code) == (408, "TIMEOUT")
    assert sidecar.mode is Mode.DISTRIBUTED


# ---------------------------------------------------------------- faults of ours


async def test_s54_fault_of_our_own_is_answered_without_its_text() -> None:
    async def broken(_: Parts, __: Asked) -> Answer:
        raise RuntimeError("the key is hunter2")

    sidecar = Sidecar()
    scopes = Scopes(sidecar.door.token, protect="off", tokens=False)
    own = Own(sidecar.door, scopes, sidecar.parts)
    sidecar.app = Starlette(routes=own.routes([Row("GET", "/broken", Scope.OPEN, broken)]))

    got = await sidecar.get("/broken", ("X-Request-ID", "id-7"))

    assert (got.status, got.code) == (500, "INTERNAL")
    assert b"hunter2" not in got.body
    assert got.json["details"] == {"request_id": "id-7"}
