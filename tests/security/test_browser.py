"""Web pages that reach for the Ollama of whoever reads them; S numbers: docs/threat-model.md."""

import json
from typing import Any

import pytest

from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import Headers, RawReply
from tests.flow.rows import ALONE, SAYS

TOKEN = "correct-horse-battery-staple-0123"
BEARER = ("Authorization", f"Bearer {TOKEN}")
EVIL = "https://evil.example"
REBOUND = "attacker.example"
LOOPBACK: dict[str, Any] = {"node_id": "tower", "listen": "127.0.0.1:11434"}
WIDE: dict[str, Any] = {"node_id": "tower", "listen": "0.0.0.0:11434"}
LISTENERS = pytest.mark.parametrize("server", [LOOPBACK, WIDE], ids=["loopback", "wide"])
STOCK = [("GET", "/api/tags"), ("POST", "/api/chat"), ("POST", "/v1/messages"), ("GET", "/x")]
OURS = ["/api/distributed/status", "/admin/stats", "/metrics", "/api/distributed/ping"]


def cors(reply: RawReply) -> Headers:
    return [each for each in reply.headers if each[0].lower().startswith("access-control-")]


async def simple(one: Cluster, origin: str, model: str = "big") -> RawReply:
    """A POST that a page may send without asking first."""
    fields = [("Origin", origin), ("Content-Type", "text/plain")]
    body = json.dumps({"model": model, "messages": SAYS, "stream": False}).encode()
    return await one.ask("POST", "/api/chat", body, fields)


# ---------------------------------------------------------------- rebinding


@pytest.mark.parametrize("method, target", STOCK)
async def test_name_that_was_bound_to_loopback_is_refused_as_stock_refuses_it(
    method: str, target: str
) -> None:
    """S40: decided before the body is read."""
    head = f"{method} {target} HTTP/1.1\r\nHost: {REBOUND}\r\nContent-Length: 99\r\n\r\n"
    async with cluster(ALONE, server=LOOPBACK) as one, one.open(head.encode()) as talk:
        reply = await talk.reply(method)

        assert (reply.status, reply.body, cors(reply)) == (403, b"", [])
        for fake in one.fakes.values():
            assert "99" not in [each.header("content-length") for each in fake.ledger.entries]


@pytest.mark.parametrize("method, target", STOCK[:2])
async def test_wide_listener_takes_any_name_as_stock_does(method: str, target: str) -> None:
    """S40: and the Ollama on loopback behind it never sees the name."""
    async with cluster(ALONE, server=WIDE) as one:
        body = json.dumps({"model": "other", "messages": SAYS}).encode()

        reply = await one.ask(method, target, body, [("Host", REBOUND)])

        assert reply.status == 200
        assert {each.header("host") for each in one.local.ledger.to(target)} == {
            f"127.0.0.1:{one.local.port}"
        }


@LISTENERS
async def test_our_routes_know_their_names(server: dict[str, Any]) -> None:
    """S40: whatever address we listen on; the refusal names the setting."""
    async with cluster(ALONE, server=server, admin_token=TOKEN) as one:
        for target in OURS:
            reply = await one.get(target, [("Host", REBOUND)])
            known = await one.get(target, [("Host", REBOUND), BEARER])

            assert (reply.status, json.loads(reply.body)["code"]) == (403, "FORBIDDEN"), target
            assert "OLLAMA_WRAP_ALLOWED_HOSTS" in json.loads(reply.body)["error"]
            assert known.status == 200, target
        assert (await one.get("/health", [("Host", REBOUND)])).status == 200


async def test_names_can_be_added_to_ours() -> None:
    """S40."""
    async with cluster(ALONE, allowed_hosts=("Box.example",)) as one:
        assert (await one.get("/metrics", [("Host", "box.example:80")])).status == 200
        assert (await one.get("/metrics", [("Host", REBOUND)])).status == 403


# ---------------------------------------------------------------- other origins


@LISTENERS
@pytest.mark.parametrize("model", ["other", "big"])
async def test_simple_post_of_a_foreign_page_is_refused(model: str, server: dict[str, Any]) -> None:
    """S41: by the entry node, also where another node would answer."""
    async with cluster(ALONE, server=server) as one:
        reply = await simple(one, EVIL, model)

        assert (reply.status, cors(reply), one.asked("/api/chat")) == (403, [], {})


async def test_kept_answer_is_not_for_a_foreign_page() -> None:
    """S41."""
    async with cluster(ALONE) as one:
        assert (await simple(one, "http://localhost:3000")).status == 200
        one["r1"].die()

        kept = await simple(one, "http://localhost:3000")
        foreign = await simple(one, EVIL)

        assert (kept.status, kept.header("x-ollama-cached-response")) == (200, "true")
        assert (foreign.status, foreign.header("x-ollama-cached-response")) == (403, None)


@pytest.mark.parametrize("model", ["other", "big"])
async def test_origin_that_the_local_ollama_allows_gets_one_answer(model: str) -> None:
    """S41: a list that is set on stock alone counts, for answers of other nodes too."""
    hosts = ALONE | {"local": host("other", origins=("https://app.example",))}
    async with cluster(hosts) as one:
        reply = await simple(one, "https://app.example", model)
        error = await simple(one, "https://app.example", "nobody-has-it")

        for each in (reply, error):
            assert cors(each) == [("Access-Control-Allow-Origin", "https://app.example")]
        assert (reply.status, error.status) == (200, 404)


async def test_other_nodes_do_not_speak_to_browsers() -> None:
    """S41: one `Access-Control-Allow-Origin` only, and that is ours."""
    async with cluster(ALONE) as one:
        theirs = ("Access-Control-Allow-Origin", "*")
        one["r1"].on(route="/api/chat", headers=(theirs, ("X-Ollama-Node", "evil")))

        reply = await simple(one, "http://localhost:3000")

        assert cors(reply) == [("Access-Control-Allow-Origin", "http://localhost:3000")]
        assert reply.header("x-ollama-node") == "r1"


@pytest.mark.parametrize("origin", [EVIL, "http://localhost:3000"])
async def test_our_routes_never_speak_to_other_pages(origin: str) -> None:
    """S42, as far as there are such routes."""
    asks = [("Origin", origin), ("Access-Control-Request-Method", "POST")]
    async with cluster(ALONE, admin_token=TOKEN) as one:
        for target in OURS:
            preflight = await one.ask("OPTIONS", target, headers=asks)
            plain = await one.get(target, [asks[0], BEARER])

            assert cors(preflight) == cors(plain) == [], target
            assert preflight.status in {401, 405}, target
