"""Which node answers, and what the answer says of it: modes, sides, policies, digests, wishes."""

import asyncio
import json
from typing import Any

import pytest

from ollama_wrap.call import Mode
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.testing import ModelSpec
from tests.fakes.cluster import Host, cluster, host
from tests.fakes.raw_http import Headers, RawReply
from tests.flow.rows import error, told

BOTH = {"local": host("tiny"), "r1": host("tiny")}
ADMIN = "correct-horse-battery-staple-0123"


def routed(reply: RawReply) -> tuple[str | None, str | None]:
    return reply.header("x-ollama-node"), reply.header("x-ollama-route-reason")


# ---------------------------------------------------------------- modes


@pytest.mark.parametrize(
    "hosts, settings, mode, reason",
    [
        ({}, {}, "local", None),
        ({"r1": host("tiny")}, {}, "distributed", None),
        ({"r1": host("tiny")}, {"distributed": False}, "local", None),
        ({"r1": host("tiny")}, {"standalone": True}, "standalone", "setting"),
        ({"r1": host("tiny", up=False)}, {}, "standalone", "no-node-answers"),
    ],
)
async def test_mode_follows_settings_and_nodes(
    hosts: dict[str, Host], settings: dict[str, Any], mode: str, reason: str | None
) -> None:
    async with cluster(hosts, **settings) as one:
        await one.until(lambda: one.runtime.fleets.current.mode == mode)

        reply = await one.chat("tiny")

        assert told(reply)[0] == 200
        assert reply.header("x-ollama-mode") == mode
        assert reply.header("x-ollama-distributed") == str(mode == "distributed").lower()
        assert reply.header("x-ollama-standalone-reason") == reason
        assert (reply.header("x-ollama-route-reason") is None) == (mode != "distributed")
        assert reply.header("x-ollama-node") == "tower"


@pytest.mark.parametrize("settings", [{"distributed": False}, {"standalone": True}])
async def test_other_nodes_are_not_even_probed_where_they_are_not_used(
    settings: dict[str, Any],
) -> None:
    async with cluster({"local": host("other"), "r1": host("big")}, **settings) as one:
        reply = await one.chat("big", [("X-Ollama-Force-Distributed", "r1")])

        assert told(reply) == (404, "tower", None, None)
        assert one["r1"].ledger.entries == []


async def test_standalone_is_entered_and_left_by_itself() -> None:
    async with cluster(BOTH) as one:
        one["r1"].die()
        await one.until(lambda: one.runtime.fleets.current.mode is Mode.STANDALONE)
        alone = await one.chat("tiny")
        await one["r1"].start()
        await one.until(lambda: one.runtime.fleets.current.mode is Mode.DISTRIBUTED)

        together = await one.chat("tiny")

        assert alone.header("x-ollama-standalone-reason") == "no-node-answers"
        assert (alone.status, together.status) == (200, 200)
        assert together.header("x-ollama-standalone-reason") is None


async def test_unusable_nodes_leave_a_sidecar_that_passes_through() -> None:
    async with cluster({"local": host("tiny")}, nodes={"text": "r1=ftp://nowhere"}) as one:
        reply = await one.chat("tiny")

        assert (reply.status, reply.header("x-ollama-mode")) == (200, "local")


# ---------------------------------------------------------------- sides


@pytest.mark.parametrize(
    "mode, node, reason",
    [("local-first", "tower", "local"), ("remote-first", "r1", "policy")],
)
async def test_side_that_is_preferred_answers(mode: str, node: str, reason: str) -> None:
    async with cluster(BOTH, routing={"mode": mode}) as one:
        assert routed(await one.chat("tiny")) == (node, reason)


async def test_balanced_asks_all_in_turn() -> None:
    routing = {"mode": "balanced", "strategy": "round-robin"}
    async with cluster(BOTH, routing=routing) as one:
        replies = [await one.chat("tiny") for _ in range(6)]

        assert one.asked("/api/chat") == {"local": 3, "r1": 3}
        assert {routed(reply)[1] for reply in replies} == {"policy"}


async def test_missing_model_is_routing_and_no_fallback() -> None:
    async with cluster({"local": host("other"), "r1": host("big")}) as one:
        reply = await one.chat("big")

        assert told(reply) == (200, "r1", None, None)
        assert routed(reply) == ("r1", "model-missing")


@pytest.mark.parametrize(
    "side, mode, node",
    [
        ("remote", "local-first", "r1"),
        ("local", "remote-first", "tower"),
        ("auto", "local-first", "tower"),
        ("nonsense", "local-first", "tower"),
    ],
)
async def test_route_header_names_a_side(side: str, mode: str, node: str) -> None:
    async with cluster(BOTH, routing={"mode": mode}) as one:
        reply = await one.chat("tiny", [("X-Ollama-Route", side)])

        assert reply.header("x-ollama-node") == node


async def test_side_named_by_a_header_may_still_fall_back() -> None:
    async with cluster(BOTH) as one:
        one["r1"].die()

        reply = await one.chat("tiny", [("X-Ollama-Route", "remote")])

        assert told(reply) == (200, "tower", "connect", "r1:connect, tower:served")


# ---------------------------------------------------------------- force

FORCE: list[tuple[Headers, str]] = [
    ([("X-Ollama-Force-Local", "true")], "tower"),
    ([("X-Ollama-Force-Distributed", "true")], "r1"),
    ([("X-Ollama-Force-Distributed", "r1")], "r1"),
    ([("X-Ollama-Force-Distributed", "r2")], "r2"),
    ([("X-Ollama-Force-Distributed", "local")], "tower"),
    ([("X-Ollama-Force-Distributed", "r1"), ("X-Ollama-Force-Local", "True")], "tower"),
    ([("X-Ollama-Force-Local", "false")], "tower"),
]
THREE = {
    "local": host("tiny"),
    "r1": host("tiny", entry="priority=0"),
    "r2": host("tiny", entry="priority=1"),
}


@pytest.mark.parametrize("headers, node", FORCE)
async def test_force_headers_name_who_answers(headers: Headers, node: str) -> None:
    async with cluster(THREE) as one:
        reply = await one.chat("tiny", headers)

        assert reply.header("x-ollama-node") == node
        if headers != FORCE[-1][0]:
            assert reply.header("x-ollama-route-reason") == "forced"


async def test_forced_node_without_the_model_says_so_itself() -> None:
    async with cluster({"local": host("tiny"), "r1": host("other")}) as one:
        reply = await one.chat("tiny", [("X-Ollama-Force-Distributed", "r1")])

        assert (reply.status, routed(reply)) == (404, ("r1", "forced"))
        assert reply.body == error("model 'tiny' not found")


@pytest.mark.parametrize("name", ["r1", "nobody"])
async def test_forced_node_that_is_away_is_not_replaced(name: str) -> None:
    async with cluster(THREE) as one:
        one["r1"].die()
        await one.chat("tiny", [("X-Ollama-Force-Distributed", "r1")])
        await one.until(lambda: one.state("r1") is NodeState.DOWN)
        before = one.asked("/api/chat")

        reply = await one.chat("tiny", [("X-Ollama-Force-Distributed", name)])

        assert reply.status == 503
        assert name in json.loads(reply.body)["error"]
        assert reply.header("x-ollama-fallback-reason") == "no-nodes"
        assert one.asked("/api/chat") == before


async def test_no_header_of_ours_reaches_a_node() -> None:
    async with cluster(BOTH) as one:
        ours = ["Force-Local", "Route", "Priority", "Timeout-Ms", "Node"]
        headers = [(f"X-Ollama-{name}", "9000") for name in [*ours, "Digest", "Target-Nodes"]]
        headers += [("X-Ollama-Force-Distributed", "tower"), ("Cookie", "a=b")]
        headers += [("X-Other", "stays")]

        await one.chat("tiny", headers)

        (seen,) = one.local.ledger.to("/api/chat")
        names = {name.lower() for name, _ in seen.headers}
        assert "x-other" in names
        assert not [name for name in names if name.startswith("x-ollama-")]
        assert names.isdisjoint({"cookie", "via", "x-request-id"})


# ---------------------------------------------------------------- policies and priorities


async def test_nodes_of_a_nearer_priority_come_first() -> None:
    async with cluster(THREE | {"local": host("other")}) as one:
        assert routed(await one.chat("tiny")) == ("r1", "model-missing")
        one["r1"].die()
        assert told(await one.chat("tiny"))[1] == "r2"


async def test_weights_are_shares() -> None:
    hosts = {
        "local": host("other"),
        "r1": host("tiny", entry="weight=75"),
        "r2": host("tiny", entry="weight=25"),
    }
    async with cluster(hosts, routing={"strategy": "weighted"}) as one:
        for _ in range(40):
            await one.chat("tiny")

        assert one.asked("/api/chat")["r1"] in range(22, 40)


async def test_models_that_an_entry_leaves_out_are_not_asked_there() -> None:
    hosts = {"local": host("other"), "r1": host("big", "tiny", entry="models=t*")}
    async with cluster(hosts) as one:
        assert routed(await one.chat("tiny")) == ("r1", "model-missing")
        assert told(await one.chat("big"))[:2] == (404, "tower")


async def test_loaded_model_is_preferred() -> None:
    hosts = {"local": host("other"), "r1": host("tiny"), "r2": host("tiny")}
    async with cluster(hosts, health={"lists_plain": 0.1}) as one:
        await one.chat("tiny", [("X-Ollama-Force-Distributed", "r2")])
        await one.until(lambda: len(one.upstream("r2").inventory.loaded) == 1)

        replies = [await one.chat("tiny") for _ in range(4)]

        assert {reply.header("x-ollama-node") for reply in replies} == {"r2"}


# ---------------------------------------------------------------- digests


@pytest.mark.parametrize(
    "digests, status, reason",
    [("prefer", 200, "digest-conflict"), ("ignore", 200, "model-missing"), ("require", 503, None)],
)
async def test_other_build_is_a_matter_of_the_setting(
    digests: str, status: int, reason: str | None
) -> None:
    hosts = {
        "local": host("other"),
        "r1": host("big=a", entry="priority=0"),
        "r2": host("big=b", entry="priority=1"),
    }
    async with cluster(hosts, routing={"digests": digests}) as one:
        one["r1"].die()
        await one.until(lambda: one.state("r1") is NodeState.DOWN)

        reply = await one.chat("big")

        assert reply.status == status
        assert reply.header("x-ollama-route-reason") == reason


async def test_stub_of_a_cloud_model_is_no_holder() -> None:
    stub = ModelSpec("big", remote_host="https://elsewhere", remote_model="big")
    hosts = {"local": host("other"), "r1": host(stub)}
    async with cluster(hosts) as one:
        reply = await one.chat("big")

        assert told(reply)[:2] == (404, "tower")
        assert one.asked("/api/chat") == {"local": 1}


# ---------------------------------------------------------------- fallback off


async def test_without_fallback_our_own_ollama_is_asked_and_its_error_stands() -> None:
    hosts = {"local": host("tiny", up=False), "r1": host("tiny")}
    async with cluster(hosts, fallback=False) as one:
        reply = await one.chat("tiny")

        assert reply.status == 503
        assert one.asked("/api/chat") == {}


async def test_without_fallback_a_preferred_node_is_asked_and_its_error_stands() -> None:
    routing = {"mode": "remote-first"}
    async with cluster(BOTH | {"r2": host("other")}, fallback=False, routing=routing) as one:
        one["r1"].die()
        first = await one.chat("tiny")
        await one.until(lambda: one.state("r1") is NodeState.DOWN)

        second = await one.chat("tiny")

        assert (first.status, second.status) == (503, 503)
        assert one.asked("/api/chat") == {}


async def test_without_fallback_a_missing_model_still_finds_its_node() -> None:
    async with cluster({"local": host("other"), "r1": host("big")}, fallback=False) as one:
        assert told(await one.chat("big")) == (200, "r1", None, None)


# ---------------------------------------------------------------- dry run, ids, prefix


async def test_dry_run_asks_nobody() -> None:
    async with cluster(BOTH | {"r2": host("other")}) as one:
        reply = await one.chat("tiny", [("X-Dry-Run", "true")])

        answer = json.loads(reply.body)
        assert (answer["mode"], answer["model"], answer["fallback"]) == (
            "distributed",
            "tiny",
            None,
        )
        assert [row["node"] for row in answer["ranking"]] == ["tower", "r1"]
        assert set(answer["ranking"][0]) == {"node", "score", "reason", "busy", "loaded"}
        assert reply.header("x-ollama-node") is None
        assert one.asked("/api/chat") == {}


async def test_dry_run_means_nothing_in_local_mode() -> None:
    async with cluster({"local": host("tiny")}) as one:
        assert told(await one.chat("tiny", [("X-Dry-Run", "true")]))[1] == "tower"


@pytest.mark.parametrize("given, kept", [("abc-123", True), ("no good", False), ("x" * 129, False)])
async def test_sane_id_of_a_client_is_kept(given: str, kept: bool) -> None:
    async with cluster(BOTH) as one:
        reply = await one.chat("tiny", [("X-Request-ID", given)])

        assert (reply.header("x-request-id") == given) is kept
        assert reply.header("x-request-id")
        assert (await one.ended())["id"] == reply.header("x-request-id")


async def test_prefix_is_cut_once_for_stock_s_routes() -> None:
    async with cluster(BOTH) as one:
        here = await one.post("/ollama/api/chat", model="tiny", messages=[])
        twice = await one.get("/ollama/ollama/api/tags")
        root = await one.get("/ollama")
        moved = await one.get("/ollama/api/tags/")

        assert (here.status, here.header("x-ollama-node")) == (200, "tower")
        assert one.asked("/api/chat") == {"local": 1}
        assert twice.status == 404
        assert root.body == b"Ollama is running"
        assert (moved.status, moved.header("location")) == (301, "/ollama/api/tags")


# ---------------------------------------------------------------- secrets, sidecars, heads


@pytest.mark.parametrize("node", ["local", "r1"])
@pytest.mark.parametrize("name", ["Authorization", "X-API-Key"])
async def test_admin_token_never_reaches_a_node(node: str, name: str) -> None:
    async with cluster(BOTH, admin_token=ADMIN) as one:
        token = f"Bearer {ADMIN}" if name == "Authorization" else ADMIN
        await one.chat("tiny", [(name, token), ("X-Ollama-Force-Distributed", node)])

        (seen,) = one[node].ledger.to("/api/chat")
        assert seen.header(name) is None


async def test_credentials_of_a_client_reach_its_own_ollama_alone() -> None:
    async with cluster(BOTH, admin_token=ADMIN) as one:
        for node in ("local", "r1"):
            headers = [("Authorization", "Bearer theirs"), ("X-Ollama-Force-Distributed", node)]
            await one.chat("tiny", headers)

        (here,), (there,) = (one[node].ledger.to("/api/chat") for node in ("local", "r1"))
        assert here.header("authorization") == "Bearer theirs"
        assert there.header("authorization") is None


async def test_sidecar_is_told_where_a_call_came_from() -> None:
    async with cluster({"local": host("other"), "r1": host("big")}) as one:
        one.sidecar("r1")
        await one.until(lambda: one.upstream("r1").sidecar is not None)

        reply = await one.chat("big", [("X-Ollama-Timeout-Ms", "4000")])

        (seen,) = one["r1"].ledger.to("/api/chat")
        assert (seen.header("via"), seen.header("x-ollama-hop")) == ("1.1 tower", "1")
        assert seen.header("x-request-id") == reply.header("x-request-id")
        assert int(seen.header("x-ollama-timeout-ms") or 0) in range(3000, 3951)


async def test_own_error_to_head_has_a_length_and_no_body() -> None:
    async with cluster({"local": host("tiny", up=False)}) as one:
        head = await one.ask("HEAD", "/api/tags")
        get = await one.get("/api/tags")

        assert (head.status, get.status) == (503, 503)
        assert head.body == b""
        assert head.header("content-length") == str(len(get.body))
        assert head.header("retry-after") == get.header("retry-after") == "1"


async def test_transcription_with_a_query_goes_to_our_own_ollama() -> None:
    async with cluster({"local": host("other"), "r1": host("big")}) as one:
        form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nbig\r\n--b--\r\n'
        kind = [("Content-Type", "multipart/form-data; boundary=b")]
        path = "/v1/audio/transcriptions"

        await one.ask("POST", path, form, kind)
        await one.ask("POST", f"{path}?model=other", form, kind)

        assert one.asked(path) == {"local": 1, "r1": 1}


async def test_every_choice_can_be_explained_in_the_log() -> None:
    async with cluster(BOTH, level="debug") as one:
        one.local.die()
        await one.chat("tiny")

        first, second = one.lines("routed")
        assert (first["node"], first["reason"], first["tried"]) == ("tower", "local", "")
        assert (second["node"], second["tried"]) == ("r1", "tower:connect")
        assert second["candidates"].startswith(("tower:", "r1:"))


async def test_retries_are_spread_over_time_and_counted() -> None:
    hosts = {"local": host("other")} | {f"r{n}": host("big") for n in range(5)}
    async with cluster(hosts) as one:
        for n in range(5):
            one[f"r{n}"].on(route="/api/chat", failure="engine-dies-first", times=0)

        reply = await one.chat("big")

        assert sum(one.asked("/api/chat").values()) == 3  # counted attempts of one request
        assert reply.status == 500
        assert reply.header("x-ollama-fallback-reason") == "load-failure"
        assert one.runtime.metrics.totals().retries == 2


async def test_many_failing_calls_retry_few_at_a_time() -> None:
    hosts = {"local": host("other")} | {f"r{n}": host("big") for n in range(3)}
    retry = {"least": 1, "share": 0.0}
    async with cluster(hosts, retry=retry, circuit={"model_failures": 1000}) as one:
        for n in range(3):
            one[f"r{n}"].on(route="/api/chat", failure="engine-dies-first", times=0, delay=0.1)

        replies = await asyncio.gather(*(one.chat("big") for _ in range(10)))

        assert {reply.status for reply in replies} == {500}
        assert sum(one.asked("/api/chat").values()) <= 10 + 2


async def test_browser_does_not_notice_that_our_own_ollama_has_gone() -> None:
    asks = [("Origin", "http://localhost:3000"), ("Access-Control-Request-Method", "POST")]
    async with cluster({"local": host("tiny"), "r1": host("tiny")}) as one:
        before = await one.ask("OPTIONS", "/api/chat", headers=asks)
        one.local.die()

        allowed = await one.ask("OPTIONS", "/api/chat", headers=asks)
        reply = await one.chat("tiny", asks[:1])

        assert (before.status, allowed.status, reply.status) == (204, 204, 200)
        for name in ("origin", "methods", "headers"):
            field = f"access-control-allow-{name}"
            assert allowed.header(field) == before.header(field)
        assert reply.header("access-control-allow-origin") == "http://localhost:3000"
