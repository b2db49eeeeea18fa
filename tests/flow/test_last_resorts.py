"""When nobody can serve, loops, clouds, large bodies; rows of the failure table by number."""

import asyncio
import json
from typing import Any

import pytest

from ollama_wrap.nodes.circuit import CircuitState
from ollama_wrap.nodes.health import NodeState
from tests.fakes.cluster import Cluster, Host, cluster, host
from tests.fakes.nodes import eject, key
from tests.fakes.raw_http import request_bytes
from tests.flow.rows import PAIR, error, told

# ---------------------------------------------------------------- nothing can serve


@pytest.mark.parametrize("others", [{}, {"r2": host("other")}], ids=["standalone", "distributed"])
async def test_holder_that_is_away_is_named(others: dict[str, Host]) -> None:
    """Row 31: a 404 would make the command line download the model."""
    async with cluster({"local": host("other"), "r1": host("big"), **others}) as one:
        one["r1"].die()
        await one.until(lambda: one.state("r1") is NodeState.DOWN)

        reply = await one.chat("big")
        shown = await one.post("/api/show", model="big")

        since = one.runtime.clock.local_time(one.upstream("r1").health.last_seen_wall or 0)
        text = f"model 'big' is on r1, which has not answered since {since}"
        for answer in (reply, shown):
            assert (answer.status, answer.body) == (503, error(text))
            if others:
                assert answer.header("x-ollama-fallback-reason") == "no-nodes"
            assert int(answer.header("retry-after") or 0) in range(1, 61)


async def test_nobody_answering_is_a_503_in_the_dialect_of_the_route() -> None:
    """Row 31."""
    async with cluster({"local": host("big", up=False), "r1": host("other")}) as one:
        reply = await one.post("/v1/chat/completions", model="big", messages=[])

        assert reply.status == 503
        assert "does not answer" in json.loads(reply.body)["error"]["message"]
        assert reply.header("retry-after") == "1"


async def test_node_thought_to_be_down_is_asked_when_nobody_else_is_left() -> None:
    """Row 32."""
    async with cluster(PAIR | {"r3": host("other")}, health={"interval": 30.0}) as one:
        for node in ("r1", "r2"):
            one[node].die()
        await one.chat("big")
        await one.until(lambda: {one.state("r1"), one.state("r2")} == {NodeState.DOWN})
        await one["r2"].start()

        reply = await one.chat("big")

        assert told(reply)[:2] == (200, "r2")
        assert reply.header("x-ollama-route-reason") == "last-gasp"
        # It is needed, so it is probed although its turn is far away.
        await one.until(lambda: one.state("r2") is not NodeState.DOWN)


# ---------------------------------------------------------------- our own Ollama restarts


async def test_local_ollama_that_restarts_is_waited_for() -> None:
    """Row 40."""
    async with cluster({"local": host("big"), "r1": host("other")}) as one:
        one.local.die()
        waiting = asyncio.ensure_future(one.chat("big"))
        await asyncio.sleep(0.3)
        assert not waiting.done()

        await one.local.start()

        assert told(await waiting) == (200, "tower", None, None)
        assert one.upstream("local").circuit.state(0.0) is CircuitState.CLOSED


async def test_local_ollama_that_restarts_is_not_waited_for_where_another_can_answer() -> None:
    """Row 40."""
    async with cluster({"local": host("big"), "r1": host("big")}) as one:
        one.local.die()

        first = await one.chat("big")
        await one.until(lambda: one.state("local") is NodeState.DOWN)
        second = await one.chat("big")

        assert told(first) == (200, "r1", "connect", "tower:connect, r1:served")
        assert told(second) == (200, "r1", "local-unhealthy", None)


async def test_local_ollama_is_not_waited_for_where_a_node_is_up_whose_circuit_is_open() -> None:
    """Rows 32 and 40: a circuit never leaves out the last that could answer."""
    async with cluster({"local": host("big"), "r1": host("big")}) as one:
        clock = one.runtime.clock
        eject(one.upstream("r1"), clock.monotonic())
        one.local.die()

        reply = await asyncio.wait_for(one.chat("big"), 2)

        assert told(reply)[:2] == (200, "r1")


async def test_nodes_whose_circuit_is_open_are_asked_when_all_others_have_failed() -> None:
    """Row 32: they answer probes, and nobody else is left."""
    hosts = {name: host("big") for name in ("local", "r1", "r2", "r3", "r4")}
    async with cluster(hosts, health={"interval": 30.0}) as one:
        for name in ("local", "r1"):
            eject(one.upstream(name), one.runtime.clock.monotonic())
        for name in ("r2", "r3", "r4"):
            one[name].die()

        calls = (one.chat("big") for _ in range(6))
        replies = await asyncio.wait_for(asyncio.gather(*calls), 8)

        for reply in replies:
            assert reply.status == 200
            assert reply.header("x-ollama-node") in {"tower", "r1"}
            assert reply.header("x-ollama-route-reason") == "last-gasp"


async def test_node_whose_circuit_is_open_is_asked_when_the_last_one_broke_off() -> None:
    """Row 32, after an attempt that counts."""
    hosts = {name: host("big") for name in ("local", "r1", "r2", "r3", "r4")}
    async with cluster(hosts, health={"interval": 30.0}) as one:
        for name in ("local", "r1", "r2", "r3"):
            eject(one.upstream(name), one.runtime.clock.monotonic())
        one["r4"].on(route="/api/chat", cut_after=0, times=9)

        reply = await asyncio.wait_for(one.chat("big"), 8)

        assert reply.status == 200
        assert reply.header("x-ollama-node") != "r4"


# ---------------------------------------------------------------- loops, clouds, large bodies


async def test_request_that_was_here_before_is_a_loop() -> None:
    """S31. Row 41."""
    async with cluster(PAIR) as one:
        headers = [("Via", "1.1 elsewhere"), ("Via", "1.1 other, 1.1 tower")]

        reply = await one.chat("big", headers)

        assert reply.status == 508
        assert one.asked("/api/chat") == {}


@pytest.mark.parametrize("model", ["other", "big"])
async def test_hop_mark_keeps_a_request_at_our_own_ollama(model: str) -> None:
    """S31. Row 41."""
    async with cluster(PAIR) as one:
        reply = await one.chat(model, [("X-Ollama-Hop", "1")])

        assert reply.status == (200 if model == "other" else 404)
        assert reply.header("x-ollama-route-reason") == "hop"
        digest = one.upstream("local").inventory.digest(key(model))
        assert reply.header("x-ollama-digest") == (digest and digest[:12])
        assert one.asked("/api/chat") == {"local": 1}
        assert one.local.ledger.to("/api/chat")[0].header("x-ollama-hop") is None


async def test_hop_mark_is_refused_when_our_own_ollama_is_away() -> None:
    """S31. Row 41."""
    async with cluster({"local": host("big", up=False), "r1": host("big")}) as one:
        reply = await one.chat("big", [("X-Ollama-Hop", "1")])

        assert reply.status == 503
        assert one.asked("/api/chat") == {}


async def test_name_of_the_cloud_never_leaves_the_host() -> None:
    """Row 42."""
    hosts: dict[str, Host] = {"local": host("other"), "r1": host("big:cloud")}
    async with cluster(hosts) as one:
        reply = await one.chat("big:cloud")

        assert told(reply) == (401, "tower", None, None)
        assert one.asked("/api/chat") == {"local": 1}


async def test_large_body_streams_to_the_holder_of_its_model_once() -> None:
    """Row 43."""
    async with cluster(PAIR, upstream={"replay_limit": 1000}) as one:
        body = json.dumps({"model": "big", "stream": False, "messages": [], "pad": "x" * 200_000})
        one["r1"].on(route="/api/chat", skip=1, cut_after=0)

        served = await one.ask("POST", "/api/chat", body.encode())
        failed = await one.ask("POST", "/api/chat", body.encode())

        assert told(served) == (200, "r1", None, None)
        assert one["r1"].ledger.to("/api/chat")[0].body == body.encode()
        assert failed.status == 502
        assert one.asked("/api/chat") == {"r1": 2}


async def test_large_body_in_chunks_arrives_whole() -> None:
    """Row 43."""
    async with cluster(PAIR, upstream={"replay_limit": 1000}) as one:
        body = json.dumps({"model": "big", "stream": False, "messages": [], "pad": "x" * 200_000})
        request = request_bytes(
            "POST", "/api/chat", body.encode(), [("Transfer-Encoding", "chunked")]
        )
        async with one.open(request) as talk:
            reply = await talk.reply()

        assert told(reply) == (200, "r1", None, None)
        assert one["r1"].ledger.to("/api/chat")[0].body == body.encode()


async def test_large_body_whose_model_is_out_of_sight_goes_to_our_own_ollama() -> None:
    """Row 43."""
    async with cluster(PAIR, upstream={"replay_limit": 1000}) as one:
        body = json.dumps({"pad": "x" * (9 << 20), "model": "big", "messages": []})

        reply = await one.ask("POST", "/api/chat", body.encode())

        assert told(reply) == (404, "tower", None, None)
        assert one.asked("/api/chat") == {"local": 1}


async def test_failure_of_the_cloud_puts_no_node_in_doubt() -> None:
    async with cluster({"local": host("other"), "r1": host("other")}) as one:
        one.local.on(route="/api/chat", status=502, body='{"error":"the cloud is away"}', times=0)

        replies = [await one.chat("big:cloud") for _ in range(4)]

        assert {reply.status for reply in replies} == {502}
        assert {reply.header("x-ollama-fallback") for reply in replies} == {None}
        assert one.state("local") is NodeState.UP
        assert one.lines("node changed") == []


async def test_lists_that_a_peer_reads_are_neither_logged_nor_counted() -> None:
    async with cluster({"local": host("tiny"), "r1": host("big")}) as one:
        for path in ("/api/tags", "/api/ps", "/api/version"):
            assert (await one.get(path, [("X-Ollama-Hop", "1")])).status == 200
        await one.get("/api/version")

        assert [line["path"] for line in one.lines()] == ["/api/version"]
        assert one.runtime.metrics.totals().ended == 1


async def test_peer_of_our_own_name_is_used_all_the_same_and_said_once() -> None:
    """It would take our name in `Via` for a loop."""
    async with cluster({"local": host("other"), "r1": host("big")}) as one:
        one.sidecar("r1", id="tower")
        await one.until(lambda: one.upstream("r1").sidecar is not None)

        reply = await one.chat("big")

        (seen,) = one["r1"].ledger.to("/api/chat")
        assert reply.status == 200
        assert (seen.header("via"), seen.header("x-ollama-hop")) == (None, "1")
        named = [line for line in said(one) if "NODE_ID" in str(line)]
        assert [line["node"] for line in named] == ["r1"]


def said(one: Cluster) -> list[dict[str, Any]]:
    event = "the sidecar of this node has our own id; give one of the two another NODE_ID"
    return one.lines(event)
