"""Nodes that answer nonsense or that they drain; rows of the failure table by number."""

import json

import pytest

from ollama_wrap.nodes.circuit import CircuitState
from ollama_wrap.nodes.health import NodeState
from tests.fakes.cluster import cluster
from tests.flow.rows import ALONE, PAIR, told

RAW = ["garbage", "switch", "huge-header", "split-header", "bad-status", "two-lengths", "nothing"]


@pytest.mark.parametrize("raw", RAW)
async def test_answer_that_is_no_http_is_asked_for_elsewhere(raw: str) -> None:
    """S20, rows 27 and 28; nothing of it comes through."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", raw=raw)

        reply = await one.chat("big")

        word = "reset" if raw == "nothing" else "bad-response"
        assert told(reply) == (200, "r2", word, f"r1:{word}, r2:served")
        assert one.upstream("r1").circuit.fails == 1


@pytest.mark.parametrize("raw", RAW[:-1])
async def test_answer_that_is_no_http_is_a_502_where_nobody_else_is(raw: str) -> None:
    """S20, row 27."""
    async with cluster(ALONE) as one:
        one["r1"].on(route="/api/chat", raw=raw)

        reply = await one.chat("big")

        assert reply.status == 502
        assert reply.header("retry-after") is None
        assert json.loads(reply.body)["error"].startswith("node r1 does not answer")


async def test_three_bad_answers_open_the_circuit() -> None:
    """Row 27."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", raw="garbage", times=0)

        replies = [await one.chat("big") for _ in range(4)]

        assert [told(reply)[1] for reply in replies] == ["r2"] * 4
        assert one.asked("/api/chat") == {"r1": 3, "r2": 4}
        assert one.upstream("r1").circuit.state(one.runtime.clock.monotonic()) is CircuitState.OPEN


async def test_broken_first_chunk_is_asked_for_elsewhere() -> None:
    """Row 28."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", break_chunk=0)

        reply = await one.chat("big", stream=True)

        assert told(reply) == (200, "r2", "bad-response", "r1:bad-response, r2:served")


# ---------------------------------------------------------------- draining


async def test_node_that_says_it_drains_is_left() -> None:
    """Row 29."""
    async with cluster(PAIR) as one:
        body = '{"error":"draining","reason":"drained"}'
        one["r1"].on(route="/api/chat", status=503, body=body)

        reply = await one.chat("big")

        assert told(reply) == (200, "r2", "drained", "r1:drained, r2:served")


async def test_drain_of_the_only_holder_is_the_answer() -> None:
    """Row 29."""
    async with cluster(ALONE) as one:
        body = '{"error":"draining","reason":"drained"}'
        one["r1"].on(route="/api/chat", status=503, body=body)

        reply = await one.chat("big")

        assert told(reply) == (503, "r1", "drained", None)
        assert reply.body == body.encode()


async def test_sidecar_that_drains_is_not_asked() -> None:
    """Row 29."""
    async with cluster(PAIR) as one:
        one.sidecar("r1", drain=True)
        await one.until(lambda: one.state("r1") is NodeState.DRAINING)

        assert told(await one.chat("big")) == (200, "r2", None, None)


async def test_sidecar_without_its_ollama_is_not_asked() -> None:
    """Row 39."""
    async with cluster(PAIR) as one:
        one.sidecar("r1", ollama=False)
        await one.until(lambda: one.state("r1") is NodeState.DOWN)

        assert told(await one.chat("big")) == (200, "r2", None, None)
