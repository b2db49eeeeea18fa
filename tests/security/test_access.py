"""Who may do what: tokens, loopback, OLLAMA_WRAP_PROTECT; S numbers: docs/threat-model.md."""

import asyncio
import json
import math
import random
import statistics
import time
from typing import Any

import pytest

from ollama_wrap.api.admin_token import AdminToken
from ollama_wrap.config import Settings
from tests.fakes.clock import FakeClock
from tests.fakes.cluster import cluster, host
from tests.fakes.raw_http import Headers, RawReply
from tests.flow.rows import ALONE
from tests.unit.api.calls import call

TOKEN = "correct-horse-battery-staple-0123"
BEARER = ("Authorization", f"Bearer {TOKEN}")
DIGEST = "sha256:" + "0" * 64
#: a caller elsewhere, as a proxy tells that is listed
FAR = ("X-Forwarded-For", "203.0.113.9")
NEAR = ("X-Forwarded-For", "192.168.1.9")
LISTED: dict[str, Any] = {"trusted_proxies": ("127.0.0.1",)}
MANAGEMENT = [
    ("POST", "/api/pull"),
    ("POST", "/api/push"),
    ("POST", "/api/create"),
    ("POST", "/api/copy"),
    ("DELETE", "/api/delete"),
    ("POST", f"/api/blobs/{DIGEST}"),
    ("HEAD", f"/api/blobs/{DIGEST}"),
    ("POST", "/api/signout"),
    ("POST", "/api/me"),
    ("DELETE", "/api/user/keys/x"),
    ("POST", "/api/experimental/web_search"),
    ("POST", "/api/experimental/web_fetch"),
]
#: other ways to say the same
ASKEW = [
    ("POST", "/ollama/api/pull"),
    ("POST", "/api/%70ull"),
    ("POST", "/api%2fpull"),
    ("POST", "/%61pi/experimental/web_search"),
    ("POST", "/api/pull?x=/api/chat"),
]


def code(reply: RawReply) -> str:
    return str(json.loads(reply.body)["code"])


# ---------------------------------------------------------------- the token


@pytest.mark.parametrize("token", [None, "", "short", "7 chars"])
async def test_admin_stays_closed_without_a_good_token(token: str | None) -> None:
    """S47: even from loopback, whatever is sent."""
    async with cluster(ALONE, admin_token=token) as one:
        for sent in ("", "Bearer", "Bearer ", "Bearer short", "Bearer 7 chars"):
            fields = [("Authorization", sent)] if sent else []
            for reply in (
                await one.get("/admin/stats", fields),
                await one.post("/admin/mode", fields, mode="local"),
                await one.post("/admin/reload", fields),
            ):
                assert (reply.status, code(reply)) == (403, "ADMIN_DISABLED"), sent
                assert "OLLAMA_ADMIN_TOKEN" in json.loads(reply.body)["error"]
        assert one.runtime.fleets.current.mode == "distributed"


@pytest.mark.parametrize("name", ["OLLAMA_ADMIN_TOKEN", "OLLAMA_JWT_SECRET"])
@pytest.mark.parametrize("value, warned", [("tiny-1", True), ("x" * 31, True), ("x" * 32, False)])
def test_short_secret_is_a_warning_and_never_a_refused_start(
    name: str, value: str, warned: bool
) -> None:
    """S47."""
    settings = Settings.load(environ={name: value})

    about = [warning for warning in settings.warnings if name in warning and "used" not in warning]
    assert bool(about) is warned
    assert value not in " ".join(settings.warnings)


async def test_token_that_is_nearly_right_is_wrong() -> None:
    """S48: of every length, and with more behind it."""
    tried = [TOKEN[:size] for size in range(len(TOKEN))]
    tried += [f"{TOKEN}x", TOKEN.upper(), f"x{TOKEN}", TOKEN[1:], f'"{TOKEN}"']
    async with cluster(ALONE, admin_token=TOKEN, **LISTED) as one:
        for number, token in enumerate(tried):
            address = ("X-Forwarded-For", f"203.0.113.{number}")
            reply = await one.get("/admin/stats", [("Authorization", f"Bearer {token}"), address])
            assert (reply.status, code(reply)) == (401, "UNAUTHORIZED"), token

        assert (await one.get("/admin/stats", [BEARER])).status == 200


async def test_token_cannot_be_guessed_at_for_long() -> None:
    """S48: after ten wrong ones from an address not even the right one helps."""
    async with cluster(ALONE, admin_token=TOKEN, **LISTED) as one:
        wrong = ("Authorization", "Bearer wrong-but-long-enough")
        statuses = [(await one.get("/admin/stats", [wrong, FAR])).status for _ in range(10)]
        last = await one.get("/admin/stats", [BEARER, FAR])
        elsewhere = await one.get("/admin/stats", [BEARER])

        assert (statuses, last.status, elsewhere.status) == ([401] * 10, 429, 200)
        assert int(last.header("retry-after") or 0) > 0


@pytest.mark.chaos
def test_nearly_right_token_takes_no_longer_than_any_other() -> None:
    """S48: 10,000 tries each; a busy machine may have one more look."""
    assert any(same_time(10_000) for _ in range(3))


def same_time(tries: int) -> bool:
    nearly, far = f"{TOKEN[:-1]}x", "x" * len(TOKEN)
    asked = [call("GET", "/", ("Authorization", f"Bearer {text}")) for text in (nearly, far)]
    order = [0, 1] * tries
    random.shuffle(order)
    took: list[list[int]] = [[], []]
    clock = FakeClock()
    token = AdminToken(TOKEN, clock)
    for which in order:
        clock.advance(61)  # guesses that are counted would be another way through
        one = asked[which]
        began = time.perf_counter_ns()
        token.valid(one)
        ended = time.perf_counter_ns()
        took[which].append(ended - began)
    # The slowest hundredth is what else the machine does.
    first, second = (sorted(times)[: tries * 99 // 100] for times in took)
    spread = statistics.variance(first) + statistics.variance(second)
    difference = statistics.mean(first) - statistics.mean(second)
    return abs(difference) < 3 * math.sqrt(spread / len(first))


# ---------------------------------------------------------------- what is told to whom

HEALTH = ("/health", "/health/live", "/health/ready")
READ = (
    "/api/distributed/status",
    "/api/distributed/nodes",
    "/api/distributed/models",
    "/api/distributed/ping",
    "/api/distributed/metrics",
    "/metrics",
)


async def test_health_says_no_names() -> None:
    """S54."""
    async with cluster(ALONE, **LISTED) as one:
        for target in HEALTH:
            reply = await one.get(target, [FAR])

            assert reply.status == 200
            assert json.loads(reply.body).keys() <= {"status", "mode", "local", "nodes"}
            for word in (b"big", b"r1", b"tower", b"0.33", b"127.0.0.1"):
                assert word not in reply.body


@pytest.mark.parametrize("protect", ["off", "management", "all"])
async def test_what_runs_here_is_told_in_this_network_alone(protect: str) -> None:
    """S54."""
    async with cluster(ALONE, admin_token=TOKEN, protect=protect, **LISTED) as one:
        for target in READ:
            far = await one.get(target, [FAR])
            near = await one.get(target, [NEAR])
            here = await one.get(target)
            token = await one.get(target, [FAR, BEARER])

            assert (far.status, near.status) == (401, 401 if protect == "all" else 200), target
            assert (here.status, token.status) == (200, 200), target


async def test_running_requests_are_told_on_this_machine_alone() -> None:
    """S54."""
    async with cluster(ALONE, admin_token=TOKEN, **LISTED) as one:
        target = "/api/distributed/requests"
        asked = [[FAR], [NEAR], [("Origin", "http://localhost")], [], [FAR, BEARER]]

        statuses = [(await one.get(target, fields)).status for fields in asked]

        assert statuses == [401, 401, 401, 200, 200]


@pytest.mark.parametrize(
    "method, target",
    [
        ("GET", "/admin/nothing"),
        ("GET", "/api/distributed/models/x/replicas/y"),
        ("DELETE", "/api/distributed/requests/x"),
        ("POST", "/metrics"),
        ("PUT", "/admin/mode"),
        ("GET", "/api/distributed/models/%00/replicas"),
    ],
)
async def test_errors_show_nothing_of_the_inside(method: str, target: str) -> None:
    """S54."""
    async with cluster(ALONE, admin_token=TOKEN, **LISTED) as one:
        reply = await one.ask(method, target, b"{", [FAR])

        assert 400 <= reply.status < 500
        for word in (b"Traceback", b".py", b"starlette", b"uvicorn", TOKEN.encode()):
            assert word not in reply.body


# ---------------------------------------------------------------- OLLAMA_WRAP_PROTECT


@pytest.mark.parametrize("protect", ["management", "all"])
async def test_management_is_for_this_machine_and_the_token(protect: str) -> None:
    """S66, S68: neither for the network nor for proxies and pages on this machine."""
    page = ("Origin", "http://localhost:3000")
    async with cluster(ALONE, protect=protect, admin_token=TOKEN, **LISTED) as one:
        for number, (method, target) in enumerate(MANAGEMENT + ASKEW):
            before = len(one.local.ledger.entries)
            for field in (FAR, NEAR, page, ("Via", "1.1 box")):
                reply = await one.ask(method, target, b"{}", [field])
                assert reply.status == 403, (method, target, field)
            sent = {each.method for each in one.local.ledger.entries[before:]}
            assert sent <= {"GET"}, (method, target)  # probes

            one.local.on(method=method, status=200, body="{}", times=2)
            here = await one.ask(method, target, b'{"here":%d}' % number)
            token = await one.ask(method, target, b'{"token":%d}' % number, [FAR, BEARER])
            assert (here.status, token.status) == (200, 200), (method, target)


@pytest.mark.parametrize("method, target", [*MANAGEMENT, ("POST", "/api/blobs/sha256:../../x")])
async def test_unprotected_everything_is_stock_s_own_answer(method: str, target: str) -> None:
    """S65, S66, S67, S68: with `off`, which is the default."""
    async with cluster(ALONE, **LISTED) as one:
        one.local.on(method=method, status=418, body="{}", times=0)
        body = b'{"model":"evil.example/x/y","insecure":true,"files":{"a":"sha256:../x"}}'

        assert (await one.ask(method, target, body, [FAR])).status == 418


@pytest.mark.parametrize("target", ["/api/pull", "/api/push"])
@pytest.mark.parametrize(
    "body",
    [
        {"model": "evil.example/x/y"},
        {"name": "evil.example/x/y"},
        {"model": "http://10.0.0.1/x"},
        {"model": "https://registry.ollama.ai:8443/library/x"},
        {"model": "tiny", "insecure": True},
        {"model": "tiny", "INSECURE": True},
    ],
    ids=repr,
)
async def test_models_come_from_known_registries(target: str, body: dict[str, Any]) -> None:
    """S65."""
    async with cluster(ALONE, protect="management", admin_token=TOKEN) as one:
        text = json.dumps(body).encode()
        refused = await one.ask("POST", target, text)
        one.local.on(route=target, status=200, body="{}")
        token = await one.ask("POST", target, text, [BEARER])

        assert (refused.status, token.status) == (403, 200)
        assert "OLLAMA_WRAP_PROTECT" in json.loads(refused.body)["error"]
        assert one.asked(target) == {"local": 1}


@pytest.mark.parametrize("name", ["tiny", "hf.co/a/b:Q4", "registry.ollama.ai/library/tiny"])
async def test_known_registries_are_open_on_this_machine(name: str) -> None:
    """S65."""
    async with cluster({"local": host("tiny", registry=("*",))}, protect="management") as one:
        reply = await one.post("/api/pull", model=name, stream=False)

        assert reply.status == 200


@pytest.mark.parametrize(
    "method, target, body",
    [
        ("POST", "/api/blobs/sha256:../../x", b""),
        ("POST", "/api/blobs/sha256:..%2f..%2fx", b""),
        ("POST", f"/api/blobs/{DIGEST}0", b""),
        ("POST", f"/api/blobs/{DIGEST[:-1]}G", b""),
        ("HEAD", "/api/blobs/sha1:0", b""),
        ("POST", "/api/create", b'{"model":"x","files":{"a":"sha256:../../x"}}'),
        ("POST", "/api/create", b'{"model":"x","adapters":{"a":"/etc/passwd"}}'),
        ("POST", "/api/create", b'{"files":{"a":"../x"},"files":{}}'),
    ],
)
@pytest.mark.parametrize("fields", [[], [BEARER]], ids=["here", "token"])
async def test_digest_is_one_wherever_it_stands(
    method: str, target: str, body: bytes, fields: Headers
) -> None:
    """S66, S67."""
    async with cluster(ALONE, protect="management", admin_token=TOKEN) as one:
        reply = await one.ask(method, target, body, fields)

        assert reply.status == 400
        seen = [each.path for each in one.local.ledger.entries]
        assert not any(path.startswith(("/api/blobs", "/api/create")) for path in seen)


async def test_create_from_elsewhere_takes_the_token() -> None:
    """S66."""
    body = json.dumps({"model": "x", "files": {"a.gguf": DIGEST}}).encode()
    async with cluster(ALONE, protect="management", admin_token=TOKEN, **LISTED) as one:
        one.local.on(route="/api/create", status=200, body="{}", times=0)

        assert (await one.ask("POST", "/api/create", body, [FAR])).status == 403
        assert (await one.ask("POST", "/api/create", body, [FAR, BEARER])).status == 200


@pytest.mark.parametrize("target", ["/api/chat", "/v1/models", "/api/tags", "/", "/x"])
async def test_all_closes_every_route_to_others(target: str) -> None:
    """S66, S68: with `all`, inference too."""
    async with cluster(ALONE, protect="all", admin_token=TOKEN, **LISTED) as one:
        one.local.on(route=target, status=418, body="{}", times=0)

        statuses = [(await one.get(target, fields)).status for fields in ([FAR], [], [FAR, BEARER])]

        assert statuses[0] == 403
        assert 403 not in statuses[1:]


@pytest.mark.parametrize("target", [f"/api/blobs/{DIGEST}", "/admin/mode", "/metrics"])
async def test_refused_upload_is_never_asked_for(target: str) -> None:
    """S16, S66: a status without a `100 Continue`, and the connection ends."""
    head = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n"
    head += "Expect: 100-continue\r\nAuthorization: Bearer wrong\r\nVia: 1.1 box\r\n\r\n"
    async with cluster(protect="management", admin_token=TOKEN) as one:
        async with one.open(head.encode()) as talk:
            async with asyncio.timeout(2):
                reply = await talk.rest()

        assert reply.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 401 ", b"HTTP/1.1 405 "))
        assert b"100 Continue" not in reply
        assert b"\r\nconnection: close\r\n" in reply.lower()
