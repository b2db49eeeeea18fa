"""Limits of time and of retries, and what flow control holds back."""

import asyncio
import hashlib
import json
from typing import Any

import pytest

from ollama_wrap.nodes.health import NodeState
from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import RawReply, request_bytes
from tests.flow.rows import ALONE, PAIR, told


async def test_limit_that_an_operator_set_moves_a_call_on() -> None:
    async with cluster(PAIR, upstream={"first_byte": 0.2}) as one:
        one["r1"].on(route="/api/chat", prompt_delay=9.0)

        reply = await one.chat("big")

        assert told(reply) == (200, "r2", "timeout", "r1:timeout, r2:served")
        assert one.state("r1") is NodeState.UP
        seen = one["r1"].ledger
        await one.until(lambda: seen.counts.generations_cancelled == 1)


@pytest.mark.parametrize("limit", ["first_byte", "total", "write_idle"])
async def test_limit_holds_on_a_connection_that_is_there_already(limit: str) -> None:
    async with cluster(PAIR, upstream={limit: 0.2}) as one:
        before = await one.chat("big")
        one["r1"].on(route="/api/chat", **({"deaf": True} if limit == "write_idle" else SLOW))
        text = "x" * (16 * 1024 * 1024 if limit == "write_idle" else 1)

        reply = await one.chat("big", messages=[{"role": "user", "content": text}])

        assert (before.header("x-ollama-node"), reply.header("x-ollama-node")) == ("r1", "r2")
        assert reply.header("x-ollama-fallback-reason") == "timeout"


async def test_limit_that_an_operator_set_holds_where_nobody_else_is_left() -> None:
    async with cluster(ALONE, upstream={"first_byte": 0.2}) as one:
        one["r1"].on(route="/api/chat", prompt_delay=9.0)

        reply = await one.chat("big")

        assert (reply.status, reply.header("retry-after")) == (504, None)


async def test_slow_show_is_asked_of_another_holder() -> None:
    async with cluster(PAIR, upstream={"first_byte_show": 0.2}) as one:
        one["r1"].on(route="/api/show", delay=9.0)

        reply = await one.post("/api/show", model="big")

        assert told(reply) == (200, "r2", "timeout", "r1:timeout, r2:served")


async def test_slow_show_is_waited_for_where_there_is_no_other_holder() -> None:
    """No limit of ours ends a request that has nowhere else to go."""
    async with cluster(ALONE, upstream={"first_byte_show": 0.2}) as one:
        one["r1"].on(route="/api/show", delay=0.6)

        assert told(await one.post("/api/show", model="big")) == (200, "r1", None, None)


SLOW = {"prompt_delay": 9.0}
STREAM = b'{"model":"big","messages":[{"role":"user","content":"hi"}]}'
NO_RETRIES = {"least": 0, "share": 0.0}


async def test_retry_that_the_budget_holds_back_is_free_where_the_node_has_gone() -> None:
    async with cluster(PAIR, retry=NO_RETRIES) as one:
        one["r1"].on(route="/api/chat", prompt_delay=9.0)
        waiting = asyncio.ensure_future(one.chat("big"))
        await one.until(lambda: one.asked("/api/chat") == {"r1": 1})

        one["r1"].die()

        assert told(await waiting) == (200, "r2", "reset", "r1:reset, r2:served")


async def test_retry_that_the_budget_holds_back_is_not_made_where_the_node_lives() -> None:
    async with cluster(PAIR, retry=NO_RETRIES) as one:
        one["r1"].on(route="/api/chat", cut_after=0)

        reply = await one.chat("big")

        assert reply.status == 503
        assert reply.header("x-ollama-fallback-reason") == "no-nodes"
        assert one.asked("/api/chat") == {"r1": 1}


async def test_calls_that_are_cut_together_are_all_answered_by_another_in_their_turns() -> None:
    async with cluster(PAIR, retry={"least": 1, "share": 0.0}) as one:
        one["r1"].on(route="/api/chat", cut_after=0, times=0)

        replies = await asyncio.gather(*(one.chat("big") for _ in range(8)))

        assert [reply.status for reply in replies] == [200] * 8


async def test_free_attempt_costs_no_budget() -> None:
    async with cluster(PAIR, retry=NO_RETRIES | {"attempts": 1}) as one:
        one["r1"].die()

        assert told(await one.chat("big")) == (200, "r2", "connect", "r1:connect, r2:served")


@pytest.mark.parametrize("mode", [{}, {"distributed": False}])
async def test_answer_waits_for_a_client_that_reads_slowly_and_arrives_whole(
    mode: dict[str, Any],
) -> None:
    line = b'{"message":{"content":"%s"},"done":false}\n' % (b"x" * 950)
    text = line * 16_000 + b'{"done":true}\n'
    settings: dict[str, Any] = {"routing": {"mode": "remote-first"}, **mode}
    async with cluster({"local": host("big"), "r1": host("big")}, **settings) as one:
        for fake in one.fakes.values():
            fake.on(
                route="/api/chat",
                status=200,
                body=text.decode(),
                content_type="application/x-ndjson",
            )
        body = json.dumps({"model": "big", "messages": []}).encode()
        async with one.open(request_bytes("POST", "/api/chat", body)) as talk:
            running = one.runtime.pipeline.running
            talk.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await one.until(lambda: sum(open_.tap.total for open_ in running.all()) > 0)
            await asyncio.sleep(0.3)
            (passed,) = (open_.tap.total for open_ in running.all())
            talk.writer.transport.resume_reading()  # type: ignore[attr-defined]

            reply = await talk.reply()

        assert passed < len(text)
        assert (reply.clean_end, reply.body == text) == (True, True)


# ---------------------------------------------------------------- what has begun


async def test_gap_that_an_operator_does_not_allow_breaks_the_stream() -> None:
    async with cluster(ALONE, upstream={"idle": 0.2}) as one:
        one["r1"].on(route="/api/chat", token_delay=0.8)

        async with one.open(request_bytes("POST", "/api/chat", STREAM)) as talk:
            await talk.until(b"\r\n\r\n")
            rest = await talk.rest()

        assert b'{"error":"stream interrupted: timeout","code":"timeout"' in rest
        assert not rest.endswith(b"0\r\n\r\n")
        assert one.state("r1") is NodeState.UP


async def test_answer_that_is_not_whole_in_the_time_an_operator_allows_is_broken() -> None:
    async with cluster(ALONE, upstream={"total": 0.3}) as one:
        one["r1"].on(route="/api/chat", token_delay=0.1, repeat=50)

        async with one.open(request_bytes("POST", "/api/chat", STREAM)) as talk:
            await talk.until(b"\r\n\r\n")
            rest = await talk.rest()

        assert b"stream interrupted: timeout" in rest


async def test_limit_for_a_whole_answer_holds_before_its_first_byte_too() -> None:
    async with cluster(ALONE, upstream={"total": 0.2}) as one:
        one["r1"].on(route="/api/chat", prompt_delay=9.0)

        assert (await one.chat("big")).status == 504


async def test_stream_without_gaps_outlives_the_limit_for_gaps() -> None:
    async with cluster(ALONE, upstream={"idle": 0.2}) as one:
        one["r1"].on(route="/api/chat", token_delay=0.05, repeat=3)

        reply = await one.chat("big", stream=True)

        assert b'"done":true' in reply.body


async def test_node_that_takes_no_bytes_is_left_for_another() -> None:
    async with cluster(PAIR, upstream={"write_idle": 0.2}) as one:
        one["r1"].on(route="/api/chat", deaf=True)
        text = "x" * (16 * 1024 * 1024)

        reply = await one.chat("big", messages=[{"role": "user", "content": text}])

        assert told(reply) == (200, "r2", "timeout", "r1:timeout, r2:served")


async def sent_in_two(one: Cluster, request: bytes) -> RawReply:
    """The reply to a request whose last bytes come late."""
    async with one.open(request[:-100]) as talk:
        await asyncio.sleep(0.5)
        talk.writer.write(request[-100:])
        return await talk.reply()


async def test_limit_for_the_first_byte_begins_when_the_last_of_an_upload_is_sent() -> None:
    limits = {"first_byte": 0.3, "first_byte_once": 0.3, "replay_limit": 1000}
    async with cluster(ALONE, upstream=limits) as one:
        body = b"x" * 100_000
        blob = f"/api/blobs/sha256:{hashlib.sha256(body).hexdigest()}"
        chat = STREAM[:-1] + b', "stream":false, "pad":"' + body + b'"}'

        long = await sent_in_two(one, request_bytes("POST", "/api/chat", chat))
        upload = await sent_in_two(one, request_bytes("POST", blob, body))

        assert told(long) == (200, "r1", None, None)
        assert upload.status == 201


async def test_limit_that_passes_after_an_upload_ends_it_and_says_what_is_known() -> None:
    """Of what may have changed something, that nobody knows; of a question, that it is late."""
    limits = {"first_byte": 0.2, "first_byte_once": 0.2, "replay_limit": 1000}
    async with cluster(ALONE, upstream=limits) as one:
        one["r1"].on(route="/api/chat", prompt_delay=9.0)
        one.local.on(route="/api/create", delay=9.0)
        chat = STREAM[:-1] + b', "pad":"' + b"x" * 100_000 + b'"}'

        late = await one.ask("POST", "/api/chat", chat)
        unknown = await one.post("/api/create", model="new", files={}, pad="x" * 100_000)

        assert (late.status, unknown.status) == (504, 502)
        assert b"gave no answer within 0.2 s: outcome unknown" in unknown.body
