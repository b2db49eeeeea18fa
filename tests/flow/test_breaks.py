"""Streams that break after their first byte, and clients that leave; rows of the failure table."""

import asyncio
import json
from typing import Any

import pytest

from ollama_wrap.nodes.health import NodeState
from ollama_wrap.testing.ledger import End
from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import RawReply, request_bytes
from tests.flow.rows import BIG, PAIR, STREAMS, marker, vanish


async def stream(one: Cluster, path: str, model: str = "big") -> RawReply:
    return await one.post(path, [("X-Request-ID", "I")], model=model, **STREAMS[path])


def request(path: str = "/api/chat", model: str = "big") -> bytes:
    return request_bytes("POST", path, json.dumps({"model": model, **STREAMS[path]}).encode())


# ---------------------------------------------------------------- markers


@pytest.mark.parametrize("path", STREAMS)
async def test_stream_whose_node_dies_ends_in_a_marker_and_no_clean_end(path: str) -> None:
    """Row 12: the marker of the dialect, on a line of its own; nobody else is asked."""
    async with cluster(PAIR) as one:
        one["r1"].on(route=path, die_after=2)

        reply = await stream(one, path)

        assert (reply.status, reply.clean_end) == (200, False)
        assert reply.header("x-ollama-node") == "r1"
        assert reply.body.endswith(b"\n" + marker(path, "reset"))
        assert reply.body.count(b"stream interrupted") == 1
        assert b"[DONE]" not in reply.body
        assert one.asked(path) == {"r1": 1}
        assert one.upstream("r1").circuit.fails == 1
        assert (await one.ended())["error"] is not None


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_marker_stands_on_its_own_line_after_half_a_line(path: str) -> None:
    """Row 12."""
    async with cluster(PAIR) as one:
        # In the second chunk: a part of the first is no first byte yet, and another node answers.
        one["r1"].on(route=path, cut_body_after=330)

        reply = await stream(one, path)

        gap = b"\n" if path == "/api/chat" else b"\n\n"
        before, _, after = reply.body.partition(gap + marker(path, "reset"))
        assert (after, reply.clean_end) == (b"", False)
        assert before
        assert not before.endswith(b"\n")


async def test_part_of_the_first_line_is_nothing_that_a_client_has_seen() -> None:
    """Row 12: until a whole chunk is here, another node may answer."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", cut_body_after=60)

        reply = await stream(one, "/api/chat")

        assert reply.clean_end
        assert json.loads(reply.body.splitlines()[-1])["done"] is True
        assert reply.header("x-ollama-attempts") == "r1:reset, r2:served"


@pytest.mark.parametrize("standing", [{"distributed": False}, {"standalone": True}])
@pytest.mark.parametrize("path", STREAMS)
async def test_no_marker_where_the_sidecar_is_to_be_invisible(
    path: str, standing: dict[str, Any]
) -> None:
    """Row 12: only the unclean end."""
    async with cluster({"local": host("big"), "r1": host("big")}, **standing) as one:
        one.local.on(route=path, cut_body_after=200)

        reply = await stream(one, path)

        assert (reply.status, reply.clean_end) == (200, False)
        assert b"stream interrupted" not in reply.body
        assert reply.header("x-ollama-distributed") == "false"


async def test_answer_with_a_length_gets_no_marker() -> None:
    """Rows 12 and 28: a body that ends too early."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", length_off=5, cut_how="fin")

        reply = await one.chat("big")

        assert (reply.status, reply.clean_end) == (200, False)
        assert b"stream interrupted" not in reply.body


async def test_encoded_answer_gets_no_marker() -> None:
    """Row 12."""
    async with cluster(PAIR) as one:
        coding = (("Content-Encoding", "zstd"),)
        one["r1"].on(route="/api/chat", headers=coding, cut_body_after=200)

        reply = await stream(one, "/api/chat")

        assert not reply.clean_end
        assert b"stream interrupted" not in reply.body


async def test_broken_chunk_in_mid_stream_ends_in_a_marker() -> None:
    """Row 28: nothing that came after it goes on."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", break_chunk=2)

        reply = await stream(one, "/api/chat")

        lines = reply.body.splitlines()
        assert not reply.clean_end
        assert lines[-1] + b"\n" == marker("/api/chat", "bad-response")
        assert len(lines) == 3


async def test_stream_without_its_last_chunk_is_a_broken_one() -> None:
    """Row 28."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", drop_last_chunk=True)

        reply = await stream(one, "/api/chat")

        assert not reply.clean_end
        assert reply.body.endswith(b"}\n" + marker("/api/chat", "reset"))


async def test_second_answer_that_nobody_asked_for_is_left_out() -> None:
    """Row 28."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", twice=True)

        first = await stream(one, "/api/chat")
        second = await stream(one, "/api/chat")

        assert first.clean_end
        assert second.clean_end
        assert first.body.count(b'"done":true') == 1
        used = [entry.connection for entry in one["r1"].ledger.to("/api/chat")]
        assert len(set(used)) == 2


# ---------------------------------------------------------------- engines


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_error_line_of_stock_passes_and_gets_no_second_one(path: str) -> None:
    """Row 11."""
    async with cluster(PAIR) as one:
        one["r1"].on(route=path, failure="engine-dies")

        reply = await stream(one, path)

        last = json.loads(reply.body.splitlines()[-1])
        assert reply.clean_end
        assert list(last) == ["error"]
        assert b"interrupted" not in reply.body
        assert one.state("r1") is NodeState.UP


async def test_second_dead_engine_in_mid_stream_leaves_the_model_alone_there() -> None:
    """Row 11."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", failure="engine-dies", times=0)

        for _ in range(2):
            await stream(one, "/api/chat")
        await one.settled()

        assert one.upstream("r1").cooling(BIG, one.runtime.clock.monotonic())
        assert one.state("r1") is NodeState.UP


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_empty_chunk_of_a_dead_engine_is_told_as_a_break(path: str) -> None:
    """Row 11."""
    async with cluster(PAIR) as one:
        one["r1"].on(route=path, failure="engine-dies", times=0)

        reply = await stream(one, path)

        assert not reply.clean_end
        assert reply.body.endswith(b"\n\n" + marker(path, "bad-response"))
        assert reply.body.count(b'"model":""') == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_empty_chunk_of_a_dead_engine_passes_in_local_mode(path: str) -> None:
    """Row 11."""
    async with cluster({"local": host("big")}) as one:
        one.local.on(route=path, failure="engine-dies")

        reply = await stream(one, path)

        assert reply.clean_end
        assert reply.body.rstrip().endswith(b"}")
        assert b"interrupted" not in reply.body


@pytest.mark.parametrize("path", STREAMS)
async def test_clean_end_without_a_terminal_marker_is_no_crash(path: str) -> None:
    """Row 11: it counts nowhere."""
    async with cluster(PAIR) as one:
        one["r1"].on(route=path, silent_end=True, times=0)

        replies = [await stream(one, path) for _ in range(3)]
        await one.settled()

        assert all(reply.clean_end for reply in replies)
        assert not any(b"interrupted" in reply.body for reply in replies)
        assert one.asked(path) == {"r1": 3}
        assert not one.upstream("r1").cooling(BIG, one.runtime.clock.monotonic())


# ---------------------------------------------------------------- silence


async def test_stream_goes_on_when_its_node_was_stopped_and_wakes() -> None:
    """Row 9."""
    hosts = PAIR | {"r1": host("big", entry="priority=0", token_delay=0.4)}
    async with cluster(hosts) as one:
        one["r1"].on(route="/api/version", silence=True, times=0)
        down = asyncio.ensure_future(one.until(lambda: one.state("r1") is NodeState.DOWN))

        reply = await stream(one, "/api/chat")

        assert down.done()
        assert reply.clean_end
        assert b'"done":true' in reply.body


async def test_stream_of_a_host_that_vanished_ends_when_probes_cannot_reach_it() -> None:
    """Row 12."""
    hosts = PAIR | {"r1": host("big", entry="priority=0", token_delay=0.3, say="a " * 99)}
    async with cluster(hosts, check=False) as one, one.open(request()) as talk:
        await talk.until(b'"content":" a"')
        one["r1"].on(route="*", silence=True, times=0)
        vanish(one["r1"])

        reply = await talk.rest()

        assert b'"error":"stream interrupted: node-down","code":"node-down"' in reply
        assert not reply.endswith(b"0\r\n\r\n")
        assert one.state("r1") is NodeState.DOWN


# ---------------------------------------------------------------- clients that leave


async def test_client_that_leaves_while_it_waits_is_never_sent_on() -> None:
    """Row 24, and the fifth walk."""
    slow = {"prompt_delay": 0.5, "times": 0}
    hosts = {
        "local": host("other"),
        "r1": host("big", entry="slots=1"),
        "r2": host("big", entry="slots=1"),
    }
    async with cluster(hosts) as one:
        for node in ("r1", "r2"):
            one[node].on(route="/api/chat", **slow)
        running = [asyncio.ensure_future(one.chat("big")) for _ in range(2)]
        await one.until(lambda: one.asked("/api/chat") == {"r1": 1, "r2": 1})
        async with one.open(request()) as talk:
            await one.until(lambda: one.runtime.metrics.totals().waiting == 1)

            talk.leave()

            await one.until(lambda: one.runtime.metrics.totals().waiting == 0, 0.25)
        line = await one.ended()
        assert (line["status"], line["node"]) == (499, None)
        assert {reply.status for reply in await asyncio.gather(*running)} == {200}
        assert one.asked("/api/chat") == {"r1": 1, "r2": 1}


@pytest.mark.parametrize("rule", [{"delay": 3.0}, {"load_delay": 3.0}, {"prompt_delay": 3.0}])
async def test_client_that_leaves_before_the_first_byte_frees_the_node(
    rule: dict[str, float],
) -> None:
    """Row 25."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", **rule)
        async with one.open(request()) as talk:
            await one.until(lambda: one.asked("/api/chat") == {"r1": 1})
            assert one.upstream("r1").in_flight == 1

            talk.leave()

            entry = one["r1"].ledger.to("/api/chat")[0]
            await one.until(lambda: entry.end is End.CANCELLED, 0.25)
        assert one.upstream("r1").in_flight == 0
        assert one.upstream("r1").circuit.fails == 0
        assert (await one.ended())["status"] == 499
        assert one.state("r1") is NodeState.UP


async def test_client_that_leaves_in_mid_stream_frees_the_node() -> None:
    """Row 25."""
    hosts = PAIR | {"r1": host("big", entry="priority=0", token_delay=0.05, say="a " * 999)}
    async with cluster(hosts) as one:
        async with one.open(request()) as talk:
            await talk.until(b'"content":" a"')

            talk.leave()

            seen = one["r1"].ledger
            await one.until(lambda: seen.counts.generations_cancelled == 1, 0.25)
        assert one.upstream("r1").in_flight == 0
        assert one.upstream("r1").circuit.fails == 0
        assert (await one.ended())["status"] == 499


async def test_client_that_leaves_a_held_upload_frees_the_node() -> None:
    """Row 25: the node takes nothing, so neither do we."""
    async with cluster(PAIR, upstream={"replay_limit": 1000}) as one:
        one["r1"].on(route="/api/chat", deaf=True)
        head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99000000\r\n\r\n"
        async with one.open(head + b'{"model":"big","messages":[],"pad":"') as talk:
            for _ in range(200):
                talk.writer.write(b"x" * 65536)
            await one.until(lambda: one.upstream("r1").in_flight == 1)
            await asyncio.sleep(0.1)

            talk.reset()

            await one.until(lambda: one.upstream("r1").in_flight == 0, 0.5)
            await one.until(lambda: not one.runtime.pipeline.running, 0.5)


async def test_connection_of_a_client_that_left_is_never_used_again() -> None:
    """Row 25: nobody sees the rest of another's answer."""
    hosts = PAIR | {"r1": host("big", entry="priority=0", token_delay=0.02)}
    async with cluster(hosts) as one:
        async with one.open(request()) as talk:
            await talk.until(b'"content":" t0"')
            talk.leave()
            await one.until(lambda: one.upstream("r1").in_flight == 0)

        reply = await one.chat("big")

        left, after = one["r1"].ledger.to("/api/chat")
        assert left.connection != after.connection
        assert json.loads(reply.body)["message"]["content"] == " t0 t1 t2 t3 t4"
