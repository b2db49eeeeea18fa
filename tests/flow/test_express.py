"""The usual call, which needs no task: whole, and refused or broken before its first byte."""

import asyncio
import json
import re
from typing import Any

import pytest

from ollama_wrap.nodes.health import NodeState
from ollama_wrap.testing import FAILURES
from tests.fakes.cluster import Cluster, Host, cluster, host
from tests.fakes.raw_http import RawReply, request_bytes
from tests.flow.rows import ALONE, BIG, PAIR, SAYS, STREAMS, error, told
from tests.flow.ways import EXPECTS, HANDED_ON, TASK, request, warm, warmed, watched

LOCAL = {"local": host("big")}
MISSING = '{"error":"model \\"big\\" not found, try pulling it first"}'
#: of a line of the log and of the headers: they differ from call to call
_VARY = {"first_byte", "duration", "bytes", "date"}
_number = re.compile(r"(?<=_)[0-9a-f]{12,}|\d+")


async def ask(one: Cluster, path: str = "/api/chat", **more: Any) -> RawReply:
    async with one.open(request(path, **more)) as talk:
        return await talk.reply()


def plain(value: object) -> object:
    """Times and counters of an answer are all the same number."""
    text = value.decode() if isinstance(value, bytes) else value
    return _number.sub("0", text) if isinstance(text, str) else text


def counted(one: Cluster) -> dict[str, float]:
    """Every number of ours that counts something, by name and labels."""
    return {
        f"{name} {sample['labels']}": float(str(sample["value"]))
        for name, samples in one.runtime.metrics.as_dict().items()
        if name.startswith("ollama_wrap") and name.endswith(("_total", "_count"))
        for sample in samples
    }


async def told_of_one_call(one: Cluster, raw: bytes) -> dict[str, Any]:
    """Everything that anybody learns of a call, without what differs from call to call."""
    before, lines = counted(one), len(one.lines())
    async with one.open(raw) as talk:
        if b"Expect" in raw:
            await talk.until(b"100 Continue\r\n\r\n")
        reply = await talk.reply()
    line = await one.ended(lines + 1)
    await one.settled()
    path = raw.split(b" ")[1].decode()
    entry = [entry for fake in one.fakes.values() for entry in fake.ledger.to(path)][-1]
    fields = [(k, plain(v)) for k, v in reply.headers if k.lower() not in _VARY]
    return {
        "reply": (reply.status, reply.reason, reply.framing, reply.clean_end, fields),
        "body": (plain(reply.body), len(reply.chunks)),
        "line": {k: plain(v) for k, v in line.items() if k not in _VARY},
        "asked": [entry.target, entry.body, *(one for one in entry.headers if one != EXPECTS)],
        "counted": {k: v - before.get(k, 0) for k, v in counted(one).items()},
    }


# ---------------------------------------------------------------- whole


@pytest.mark.parametrize("hosts", [PAIR, LOCAL])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", STREAMS)
async def test_call_without_a_task_is_told_as_one_with_a_task_is(
    path: str, stream: bool, hosts: dict[str, Host]
) -> None:
    """To the client, to the node, in the log and in the numbers."""
    async with warmed(hosts, path) as (one, ways):
        first = await told_of_one_call(one, request(path, EXPECTS, stream=stream))
        assert ways.calls == [TASK]

        second = await told_of_one_call(one, request(path, stream=stream))

        assert second == first
        assert sum(second["counted"].values()) > 0
        assert ways.calls == [TASK]


async def test_answer_is_kept_and_given_again_when_nobody_answers() -> None:
    async with warmed() as (one, ways):
        fresh = await ask(one, messages=[*SAYS, *SAYS])
        assert ways.calls == []
        for fake in one.fakes.values():
            fake.die()

        kept = await ask(one, messages=[*SAYS, *SAYS])

        assert (kept.status, kept.body) == (200, fresh.body)
        assert kept.header("x-ollama-cached-response") == "true"


@pytest.mark.parametrize("hosts", [PAIR, LOCAL])
@pytest.mark.parametrize("lines", [1, 4000])
async def test_big_answer_arrives_whole(hosts: dict[str, Host], lines: int) -> None:
    text = ("x" * (8_000_000 // lines) + "\n") * lines
    async with warmed(hosts) as (one, ways):
        for fake in one.fakes.values():
            fake.on(route="/api/chat", status=200, body=text)

        reply = await ask(one)

        assert (reply.clean_end, reply.body == text.encode()) == (True, True)
        assert ways.calls == []


async def test_requests_on_one_connection_are_answered_in_turn() -> None:
    async with warmed() as (one, ways):
        three = request() + request(stream=False) + request()
        async with one.open(three) as talk:
            replies = [await talk.reply() for _ in range(3)]

        assert [reply.framing for reply in replies] == ["chunked", "length", "chunked"]
        assert all(reply.clean_end for reply in replies)
        assert one.asked("/api/chat") == {"r1": 3}
        assert ways.calls == []


async def test_client_of_the_old_protocol_gets_its_answer_until_the_close() -> None:
    async with warmed() as (one, ways):
        old = request().replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n")
        async with one.open(old) as talk:
            reply = await talk.reply()

        assert (reply.framing, reply.body.count(b'"done":true')) == ("close", 1)
        assert ways.calls == []


# ---------------------------------------------------------------- what is not usual


@pytest.mark.parametrize(
    "field, status",
    [
        (("X-Ollama-Timeout-Ms", "5000"), 200),
        (("X-Ollama-Timeout-Ms", "0"), 504),
        (("X-Ollama-Timeout-Ms", "9" * 400), 200),
        (("X-Ollama-Force-Distributed", "r2"), 200),
        (("X-Dry-Run", "true"), 200),
        (("Origin", "http://nobody.example"), 403),
    ],
)
async def test_call_with_a_wish_walks_the_usual_line(field: tuple[str, str], status: int) -> None:
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", prompt_delay=0.2)
        async with one.open(request("/api/chat", field)) as talk:
            reply = await talk.reply()

        assert reply.status == status
        assert ways.calls == [TASK]


async def test_body_of_unknown_length_and_a_long_one_walk_the_usual_line() -> None:
    long = [{"role": "user", "content": "x" * 70_000}]
    async with warmed() as (one, ways):
        body = json.dumps({"model": "big", "messages": []}).encode()
        chunked = request_bytes("POST", "/api/chat", body, [("Transfer-Encoding", "chunked")])
        async with one.open(chunked) as talk:
            first = await talk.reply()

        second = await ask(one, messages=long)

        assert (first.status, second.status) == (200, 200)
        assert ways.calls == [TASK, TASK]


async def test_caller_without_the_right_is_refused() -> None:
    async with warmed(protect="all") as (one, ways):
        forwarded = ("X-Forwarded-For", "203.0.113.9")
        async with one.open(request("/api/chat", forwarded)) as talk:
            refused = await talk.reply()
        allowed = await ask(one)

        assert (refused.status, allowed.status) == (403, 200)
        assert one.asked("/api/chat") == {"r1": 1}
        assert ways.calls == [TASK]


async def test_second_call_goes_elsewhere_and_the_third_waits_for_a_place() -> None:
    slots = {
        "local": host("other"),
        "r1": host("big", entry="priority=0;slots=1"),
        "r2": host("big", entry="priority=1;slots=1"),
    }
    async with warmed(slots) as (one, ways):
        one["r1"].on(route="/api/chat", prompt_delay=0.3)
        one["r2"].on(route="/api/chat", prompt_delay=3.0)
        calls = [asyncio.ensure_future(ask(one)) for _ in range(2)]
        await one.until(lambda: one.asked("/api/chat") == {"r1": 1, "r2": 1})
        assert ways.calls == [TASK]

        third = await ask(one)

        assert third.header("x-ollama-node") == "r1"
        assert ways.calls == [TASK, TASK]
        assert {(await call).header("x-ollama-node") for call in calls} == {"r1", "r2"}


# ---------------------------------------------------------------- failures before the first byte


@pytest.mark.parametrize(
    "rule, word",
    [
        ({"failure": "out-of-memory"}, "oom"),
        ({"failure": "load-timeout"}, "load-failure"),
        ({"failure": "bad-magic"}, "load-failure"),
        ({"failure": "engine-dies-first"}, "load-failure"),
        ({"failure": "runner-stopped"}, "load-failure"),
        ({"status": 404, "body": MISSING}, "model-not-found"),
        ({"status": 502, "body": "<html>"}, "bad-response"),
        ({"raw": "garbage"}, "bad-response"),
        ({"raw": "huge-header"}, "bad-response"),
        ({"raw": "two-lengths"}, "bad-response"),
        ({"break_chunk": 0}, "bad-response"),
        ({"cut_after": 9}, "reset"),
        ({"cut_body_after": 0}, "reset"),
        ({"die_after": 0}, "connect"),
    ],
)
async def test_failure_before_the_first_byte_is_not_noticed(
    rule: dict[str, Any], word: str
) -> None:
    """Rows 2, 3, 7, 10, 16, 27 and 28 of the failure table."""
    async with warmed() as (one, ways):
        if rule.get("failure") in {"out-of-memory", "load-timeout", "bad-magic"}:
            one["r1"].daemon.scheduler.clear()  # these come when it loads
        one["r1"].on(route="/api/chat", **rule, times=0)

        reply = await ask(one)

        assert told(reply) == (200, "r2", word, f"r1:{word}, r2:served")
        assert reply.body.count(b'"done":true') == 1
        assert ways.calls == [HANDED_ON]
        line = await one.ended()
        assert (line["fallback"], line["attempts"]) == (word, f"r1:{word},r2:served")


async def test_busy_node_is_left_for_another_which_is_no_fallback() -> None:
    """Row 4."""
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", failure="busy")

        reply = await ask(one)

        assert told(reply) == (200, "r2", None, "r1:busy, r2:served")
        assert ways.calls == [HANDED_ON]


@pytest.mark.parametrize("status", [400, 500, 501])
async def test_error_that_a_request_earned_is_the_answer(status: int) -> None:
    async with warmed() as (one, ways):
        body = '{"error":"template: no such thing"}'
        one["r1"].on(route="/api/chat", status=status, body=body)

        reply = await ask(one)

        assert (told(reply), reply.body) == ((status, "r1", None, None), body.encode())
        assert ways.calls == [HANDED_ON] * (status == 500)


async def test_failure_that_nobody_replaces_is_stock_s_own_answer() -> None:
    """Row 3."""
    async with warmed(ALONE) as (one, ways):
        one["r1"].on(route="/api/chat", failure="engine-dies-first")

        reply = await ask(one, messages=[*SAYS, *SAYS])

        assert told(reply) == (500, "r1", "load-failure", None)
        assert reply.body == error(FAILURES["engine-dies-first"].text)
        assert ways.calls == [HANDED_ON]


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_in_local_mode_every_answer_of_stock_passes(status: int) -> None:
    async with warmed(LOCAL) as (one, ways):
        one.local.on(route="/api/chat", status=status, body=MISSING)

        reply = await ask(one)

        assert (reply.status, reply.body) == (status, MISSING.encode())
        assert ways.calls == []


@pytest.mark.parametrize("rule, status", [({"raw": "garbage"}, 502), ({"cut_after": 9}, 503)])
async def test_in_local_mode_no_answer_is_an_error_of_ours(
    rule: dict[str, Any], status: int
) -> None:
    async with warmed(LOCAL) as (one, ways):
        one.local.on(route="/api/chat", **rule)

        reply = await ask(one)

        assert (reply.status, list(json.loads(reply.body))) == (status, ["error"])
        assert ways.calls == [HANDED_ON]


@pytest.mark.parametrize("hosts, node", [(PAIR, "r1"), (LOCAL, "local")])
async def test_connection_that_had_died_idle_is_replaced_at_the_same_node(
    hosts: dict[str, Host], node: str
) -> None:
    """Row 10."""
    async with warmed(hosts) as (one, ways):
        one[node].on(route="/api/chat", cut_after=0)

        reply = await ask(one)

        assert (reply.status, reply.header("x-ollama-attempts")) == (200, None)
        assert one.asked("/api/chat") == {node: 2}
        assert one.upstream(node).circuit.fails == 0
        assert ways.calls == [HANDED_ON]


async def test_node_that_was_restarted_is_asked_on_a_new_connection() -> None:
    async with warmed(health={"interval": 30.0}) as (one, ways):
        one["r1"].die()
        await one["r1"].start()

        assert told(await ask(one)) == (200, "r1", None, None)
        assert ways.calls == [TASK]

        assert told(await ask(one)) == (200, "r1", None, None)
        assert ways.calls == [TASK]


# ---------------------------------------------------------------- silence


async def test_call_at_a_stopped_node_is_moved_when_the_probe_sees_it() -> None:
    """Row 9."""
    async with warmed() as (one, ways):
        one["r1"].on(route="*", silence=True, times=0)
        waiting = asyncio.ensure_future(ask(one))
        await one.until(lambda: one.asked("/api/chat") == {"r1": 1})
        assert ways.calls == []

        reply = await waiting

        assert told(reply) == (200, "r2", "node-down", "r1:node-down, r2:served")
        assert ways.calls == [HANDED_ON]


@pytest.mark.parametrize("hosts, node", [(ALONE, "r1"), (LOCAL, "local")])
async def test_call_at_a_stopped_node_stays_where_nobody_else_can_take_it(
    hosts: dict[str, Host], node: str
) -> None:
    """Row 9."""
    async with warmed(hosts) as (one, ways):
        one[node].on(route="/api/version", silence=True, times=0)
        one[node].on(route="/api/chat", prompt_delay=1.8)

        reply = await ask(one)

        assert (reply.status, reply.body.count(b'"done":true')) == (200, 1)
        assert one.state(node) is NodeState.DOWN
        assert one.asked("/api/chat") == {node: 1}
        assert ways.calls == [HANDED_ON]


async def test_call_at_a_stopped_node_is_moved_when_another_comes_back() -> None:
    """Row 9."""
    async with cluster(PAIR) as one:
        one["r2"].die()
        await one.until(lambda: one.state("r2") is NodeState.DOWN)
        await warm(one)
        with watched(one) as ways:
            one["r1"].on(route="*", silence=True, times=0)
            waiting = asyncio.ensure_future(ask(one))
            await one.until(lambda: one.state("r1") is NodeState.DOWN)
            assert (waiting.done(), ways.calls) == (False, [HANDED_ON])

            await one["r2"].start()

            assert told(await waiting) == (200, "r2", "node-down", "r1:node-down, r2:served")


async def test_lead_is_followed_no_more_when_its_node_is_out_of_order() -> None:
    """Rows 2 and 3: the model is left alone there, and nobody waits to find out again."""
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", failure="engine-dies-first", times=2)
        failed = [await ask(one) for _ in range(2)]

        reply = await ask(one)

        assert [told(reply)[2] for reply in failed] == ["load-failure"] * 2
        assert one.upstream("r1").cooling(BIG, one.runtime.clock.monotonic())
        assert reply.header("x-ollama-node") == "r2"
        assert (ways.calls[0], ways.calls[-1]) == (HANDED_ON, TASK)
