"""How the usual call, which needs no task, ends early: breaks, clients that leave, operators."""

import asyncio
import gc
import json
from typing import Any

import pytest

from ollama_wrap.lifecycle import Stop, finish
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.testing.ledger import End
from tests.fakes.cluster import Cluster, Host, Talk, host
from tests.flow.rows import ALONE, BIG, PAIR, STREAMS, marker, vanish
from tests.flow.ways import EXPECTS, HANDED_ON, TASK, request, warmed

LOCAL = {"local": host("big")}
#: says enough for a test to look at it in mid-stream
SPEAKS: dict[str, Any] = {"token_delay": 0.02, "say": "a " * 400}
LAST = b"0\r\n\r\n"


async def streaming(one: Cluster, talk: Talk) -> str:
    """Come back in mid-stream with the number of the only open call."""
    await talk.until(b'"content":" a"')
    (running,) = one.runtime.pipeline.running.all()
    return running.number


# ---------------------------------------------------------------- breaks


@pytest.mark.parametrize("path", STREAMS)
async def test_stream_whose_node_dies_ends_in_a_marker_and_no_clean_end(path: str) -> None:
    """Row 12 of the failure table."""
    async with warmed(PAIR, path) as (one, ways):
        one["r1"].on(route=path, die_after=2)

        async with one.open(request(path)) as talk:
            reply = await talk.reply()

        assert (reply.status, reply.clean_end) == (200, False)
        assert reply.body.endswith(b"\n" + marker(path, "reset"))
        assert reply.body.count(b"stream interrupted") == 1
        assert one.asked(path) == {"r1": 1}
        assert one.upstream("r1").circuit.fails == 1
        assert (await one.ended())["error"] is not None
        assert ways.calls == []


@pytest.mark.parametrize("path", STREAMS)
async def test_no_marker_where_the_sidecar_is_to_be_invisible(path: str) -> None:
    """Row 12: only the unclean end."""
    async with warmed(LOCAL, path) as (one, ways):
        one.local.on(route=path, cut_body_after=200)

        async with one.open(request(path)) as talk:
            rest = await talk.rest()

        assert b"stream interrupted" not in rest
        assert not rest.endswith(LAST)
        assert ways.calls == []


async def test_in_local_mode_half_a_line_passes_before_the_break() -> None:
    """Row 12: what stock said is what the client gets."""
    async with warmed(LOCAL) as (one, ways):
        one.local.on(route="/api/chat", cut_body_after=60)

        async with one.open(request()) as talk:
            reply = await talk.reply()

        assert reply.body.startswith(b'{"model":"big"')
        assert (reply.clean_end, b"\n" in reply.body) == (False, False)
        assert ways.calls == []


async def test_broken_answer_to_a_client_of_the_old_protocol_is_reset() -> None:
    """Row 12: its end is the close, which must not look whole."""
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", die_after=2)

        async with one.open(request().replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n")) as talk:
            with pytest.raises(ConnectionResetError):
                await talk.rest()

        assert ways.calls == []


@pytest.mark.parametrize(
    "rule, word",
    [({"break_chunk": 2}, "bad-response"), ({"drop_last_chunk": True}, "reset")],
)
async def test_framing_that_breaks_in_mid_stream_ends_in_a_marker(
    rule: dict[str, Any], word: str
) -> None:
    """Row 28."""
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", **rule)

        async with one.open(request()) as talk:
            reply = await talk.reply()

        assert not reply.clean_end
        assert reply.body.endswith(marker("/api/chat", word))
        assert ways.calls == []


async def test_answer_with_a_length_that_is_too_short_gets_no_marker() -> None:
    """Row 28."""
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", length_off=5, cut_how="fin")

        async with one.open(request(stream=False)) as talk:
            reply = await talk.reply()

        assert (reply.status, reply.clean_end) == (200, False)
        assert b"stream interrupted" not in reply.body
        assert ways.calls == []


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_error_line_of_stock_passes_and_counts_against_the_model(path: str) -> None:
    """Row 11."""
    async with warmed(PAIR, path) as (one, ways):
        one["r1"].on(route=path, failure="engine-dies", times=2)
        for _ in range(2):
            async with one.open(request(path)) as talk:
                reply = await talk.reply()

            assert reply.clean_end
            assert list(json.loads(reply.body.splitlines()[-1])) == ["error"]
            await one.settled()
        assert one.upstream("r1").cooling(BIG, one.runtime.clock.monotonic())
        assert one.state("r1") is NodeState.UP
        assert ways.calls == []


@pytest.mark.parametrize("hosts", [PAIR, LOCAL])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_empty_chunk_of_a_dead_engine_is_a_break_where_we_may_say_so(
    path: str, hosts: dict[str, Host]
) -> None:
    """Row 11."""
    async with warmed(hosts, path) as (one, ways):
        for fake in one.fakes.values():
            fake.on(route=path, failure="engine-dies")

        async with one.open(request(path)) as talk:
            reply = await talk.reply()

        assert reply.clean_end is (hosts is LOCAL)
        assert reply.body.endswith(marker(path, "bad-response")) is (hosts is PAIR)
        assert ways.calls == []


@pytest.mark.parametrize("path", STREAMS)
async def test_clean_end_without_a_terminal_marker_is_no_crash(path: str) -> None:
    """Row 11: it counts nowhere."""
    async with warmed(PAIR, path) as (one, ways):
        one["r1"].on(route=path, silent_end=True, times=0)
        for _ in range(3):
            async with one.open(request(path)) as talk:
                reply = await talk.reply()
            assert reply.clean_end
        await one.settled()

        assert one.asked(path) == {"r1": 3}
        assert not one.upstream("r1").cooling(BIG, one.runtime.clock.monotonic())
        assert ways.calls == []


async def test_second_answer_that_nobody_asked_for_is_left_out() -> None:
    """Row 28."""
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", twice=True)
        replies = []
        for _ in range(2):
            async with one.open(request()) as talk:
                replies.append(await talk.reply())

        assert all(reply.body.count(b'"done":true') == 1 for reply in replies)
        used = {entry.connection for entry in one["r1"].ledger.to("/api/chat")}
        assert len(used) == 2
        assert ways.calls == [TASK]


# ---------------------------------------------------------------- silence in mid-stream


async def test_stream_of_a_stopped_node_goes_on_when_it_wakes() -> None:
    """Row 9."""
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/version", silence=True, times=0)
        one["r1"].on(route="/api/chat", token_delay=0.4)

        async with one.open(request()) as talk:
            await talk.until(b'"content":" t0"')
            await one.until(lambda: one.state("r1") is NodeState.DOWN)
            rest = await talk.until(LAST)

        assert b'"done":true' in rest
        assert ways.calls == []


async def test_stream_of_a_host_that_vanished_ends_when_probes_cannot_reach_it() -> None:
    """Row 12."""
    async with warmed(check=False) as (one, ways), one.open(request()) as talk:
        one["r1"].on(route="/api/chat", **SPEAKS | {"token_delay": 0.3})
        await streaming(one, talk)
        one["r1"].on(route="*", silence=True, times=0)
        vanish(one["r1"])

        rest = await talk.rest()

        assert marker("/api/chat", "node-down") in rest
        assert not rest.endswith(LAST)
        assert ways.calls == []


async def test_gap_that_an_operator_does_not_allow_breaks_the_stream() -> None:
    """Row 14."""
    async with warmed(ALONE, upstream={"idle": 0.2}) as (one, ways):
        one["r1"].on(route="/api/chat", token_delay=0.8)

        async with one.open(request()) as talk:
            rest = await talk.rest()

        assert marker("/api/chat", "timeout") in rest
        assert ways.calls == []


# ---------------------------------------------------------------- clients that leave


@pytest.mark.parametrize("hosts, node", [(PAIR, "r1"), (LOCAL, "local")])
@pytest.mark.parametrize("rule", [{"delay": 3.0}, {"prompt_delay": 3.0}, SPEAKS])
async def test_client_that_leaves_frees_the_node_at_once(
    rule: dict[str, Any], hosts: dict[str, Host], node: str
) -> None:
    """Row 25: before the first byte and in mid-stream."""
    async with warmed(hosts) as (one, ways):
        one[node].on(route="/api/chat", **rule)
        async with one.open(request()) as talk:
            await one.until(lambda: one.asked("/api/chat") == {node: 1})
            if rule is SPEAKS:
                await streaming(one, talk)
            assert one.upstream(node).in_flight == 1

            talk.leave()

            (entry,) = one[node].ledger.to("/api/chat")
            await one.until(lambda: entry.end is End.CANCELLED, 0.25)
        assert one.upstream(node).in_flight == 0
        assert one.upstream(node).circuit.fails == 0
        line = await one.ended()
        assert (line["status"], line["error"]) == (499, "the client left")
        assert ways.calls == []


async def test_client_that_leaves_after_its_request_only_is_gone_too() -> None:
    """Row 25: the end of what it sends is the end of the call, as with stock."""
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", prompt_delay=3.0)
        async with one.open(request()) as talk:
            await one.until(lambda: one.asked("/api/chat") == {"r1": 1})

            talk.writer.write_eof()

            await one.until(lambda: not one.runtime.pipeline.running, 0.25)
        assert (await one.ended())["status"] == 499
        assert ways.calls == []


async def test_client_that_leaves_between_head_and_body_asks_nobody() -> None:
    async with warmed() as (one, ways):
        raw = request()
        async with one.open(raw[:-5]) as talk:
            await one.until(lambda: len(one.runtime.pipeline.running) == 1)

            talk.leave()

            await one.until(lambda: not one.runtime.pipeline.running, 0.25)
        assert (await one.ended())["status"] == 499
        assert one.asked("/api/chat") == {}
        assert ways.calls == [TASK]


async def test_client_that_leaves_a_call_which_was_handed_on_frees_its_node() -> None:
    """Rows 9 and 25: the attempt that was begun without the task ends with it."""
    async with warmed(ALONE) as (one, ways):
        one["r1"].on(route="/api/version", silence=True, times=0)
        one["r1"].on(route="/api/chat", prompt_delay=9.0)
        async with one.open(request()) as talk:
            await one.until(lambda: one.state("r1") is NodeState.DOWN)
            assert ways.calls == [HANDED_ON]
            assert one.upstream("r1").in_flight == 1

            talk.leave()

            await one.until(lambda: one.upstream("r1").in_flight == 0, 0.25)
        assert (await one.ended())["status"] == 499


async def test_connection_of_a_client_that_left_is_never_used_again() -> None:
    """Row 25: nobody sees the rest of another's answer."""
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", **SPEAKS)
        async with one.open(request()) as talk:
            await streaming(one, talk)
            talk.leave()
            await one.until(lambda: one.upstream("r1").in_flight == 0)

        async with one.open(request(stream=False)) as talk:
            reply = await talk.reply()

        left, after = one["r1"].ledger.to("/api/chat")
        assert left.connection != after.connection
        assert json.loads(reply.body)["message"]["content"] == " t0 t1 t2 t3 t4"
        assert ways.calls == [TASK]


@pytest.mark.parametrize("hosts", [PAIR, LOCAL])
async def test_client_that_reads_slowly_holds_the_node_back(hosts: dict[str, Host]) -> None:
    """Row 26: what waits for it is bounded."""
    text = ("x" * 1000 + "\n") * 24_000
    async with warmed(hosts) as (one, ways):
        for fake in one.fakes.values():
            fake.on(route="/api/chat", status=200, body=text)
        async with one.open(request()) as talk:
            talk.writer.transport.pause_reading()  # type: ignore[attr-defined]
            running = one.runtime.pipeline.running
            await one.until(lambda: sum(each.tap.total for each in running.all()) > 0)
            await asyncio.sleep(0.3)
            (passed,) = (each.tap.total for each in running.all())
            talk.writer.transport.resume_reading()  # type: ignore[attr-defined]

            reply = await talk.reply()

        assert passed < len(text) // 2
        assert (reply.clean_end, reply.body == text.encode()) == (True, True)
        assert ways.calls == []


# ---------------------------------------------------------------- operators and shutdown


async def test_operator_ends_a_call_before_its_first_byte() -> None:
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", prompt_delay=3.0)
        async with one.open(request()) as talk:
            await one.until(lambda: one.asked("/api/chat") == {"r1": 1})
            (listed,) = json.loads((await one.get("/api/distributed/requests")).body)["requests"]
            assert (listed["node"], listed["first_byte"]) == ("r1", None)

            said = await one.ask("DELETE", f"/api/distributed/requests/{listed['id']}")

            assert (said.status, (await talk.reply()).status) == (200, 503)
            (entry,) = one["r1"].ledger.to("/api/chat")
            await one.until(lambda: entry.end is End.CANCELLED, 0.25)
        assert ways.calls == []


@pytest.mark.parametrize("hosts", [PAIR, LOCAL])
async def test_operator_ends_a_stream_visibly(hosts: dict[str, Host]) -> None:
    async with warmed(hosts) as (one, ways):
        for fake in one.fakes.values():
            fake.on(route="/api/chat", **SPEAKS)
        async with one.open(request()) as talk:
            number = await streaming(one, talk)

            said = await one.ask("DELETE", f"/api/distributed/requests/{number}")

            rest = await talk.rest()
        again = await one.ask("DELETE", f"/api/distributed/requests/{number}")
        assert (said.status, again.status) == (200, 404)
        assert rest.count(marker("/api/chat", "reset")) == (hosts is PAIR)
        assert not rest.endswith(LAST)
        assert "ended by an operator" in {line["error"] for line in one.lines()}
        assert ways.calls == []


async def test_open_streams_end_by_themselves_and_what_is_left_is_ended_visibly() -> None:
    async with warmed() as (one, _):
        one["r1"].on(route="/api/chat", token_delay=0.05)
        async with one.open(request()) as short, one.open(request()) as long:
            one["r2"].on(route="/api/chat", **SPEAKS)
            await one.until(lambda: one.asked("/api/chat") == {"r1": 1, "r2": 1})

            left = await finish(one.runtime.pipeline.running, Stop(), 1.0)

            whole, rest = await short.reply(), await long.rest()

        assert (left, whole.clean_end) == (1, True)
        assert rest.count(marker("/api/chat", "reset")) == 1
        assert not rest.endswith(LAST)


async def test_open_stream_that_is_not_waited_for_is_ended_visibly() -> None:
    async with warmed() as (one, ways):
        one["r1"].on(route="/api/chat", **SPEAKS)
        async with one.open(request()) as talk:
            await streaming(one, talk)

            left = await finish(one.runtime.pipeline.running, Stop(), 0)

            rest = await talk.rest()

        assert (left, len(one.runtime.pipeline.running)) == (1, 0)
        assert rest.count(marker("/api/chat", "reset")) == 1
        assert (await one.ended())["error"] == "shut down"
        assert ways.calls == []


# ---------------------------------------------------------------- what is left


@pytest.mark.parametrize("extra, way", [((), []), ((EXPECTS,), [TASK])])
async def test_call_that_has_ended_leaves_nothing_to_be_collected(
    extra: tuple[tuple[str, str], ...], way: list[str]
) -> None:
    """Without a cycle that only a collection finds, none is due however many calls there are."""
    async with warmed() as (one, ways):
        gc.collect()
        gc.disable()
        try:
            async with one.open(request("/api/chat", *extra)) as talk:
                if extra:
                    await talk.until(b"Continue\r\n\r\n")
                await talk.reply()
            await one.settled()
            left = [found for found in gc.get_objects() if type(found) is Attempt]
        finally:
            gc.enable()

        assert left == []
        assert ways.calls == way
