"""What happens before the first byte when nodes fail; rows of the failure table by number.

r1 is asked first and r2 after it; both hold `big` in the same build, our own Ollama does not.
"""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ollama_wrap.nodes.circuit import CircuitState
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.testing import FAILURES, FakeOllama
from ollama_wrap.testing.names import parse
from tests.fakes.cluster import Cluster, Host, cluster, host
from tests.fakes.nodes import key
from tests.fakes.raw_http import RawReply, request_bytes

PAIR = {
    "local": host("other"),
    "r1": host("big", entry="priority=0"),
    "r2": host("big", entry="priority=1"),
}
BIG = key("big")
DOUBTED = {NodeState.SUSPECT, NodeState.DOWN}


def told(reply: RawReply) -> tuple[int, str | None, str | None, str | None]:
    """Status, node, reason of the fallback, and attempts."""
    names = ("x-ollama-node", "x-ollama-fallback-reason", "x-ollama-attempts")
    assert (reply.header("x-ollama-fallback") == "true") == bool(reply.header(names[1]))
    return reply.status, *(reply.header(name) for name in names)  # type: ignore[return-value]


def error(text: str) -> bytes:
    return json.dumps({"error": text}, separators=(",", ":")).encode()


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """A port whose connections are neither made nor refused: its queue is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(0)
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield


def sidecar(fake: FakeOllama, **says: object) -> None:
    """From now on the fake answers the ping of a sidecar."""
    ping = {"id": "r1", "boot": "b", "proto": [1, 1], "ollama": True} | says
    fake.on(route="/api/distributed/ping", status=200, body=json.dumps(ping), times=0)


# ---------------------------------------------------------------- loading and memory


async def test_cold_load_is_waited_for() -> None:
    """Row 1."""
    hosts = PAIR | {"r1": host("big", entry="priority=0", load_delay=0.8)}
    async with cluster(hosts) as one:
        reply = await one.chat("big")

        assert told(reply) == (200, "r1", None, None)
        assert one.asked("/api/chat") == {"r1": 1}
        assert one.state("r1") is NodeState.UP


@pytest.mark.parametrize(
    "failure, word, cooling",
    [
        ("out-of-memory", "oom", True),
        ("load-timeout", "load-failure", True),
        ("bad-magic", "load-failure", False),
        ("no-engine", "load-failure", False),
        ("engine-dies-first", "load-failure", False),
        ("runner-stopped", "load-failure", False),
    ],
)
async def test_engine_that_fails_before_its_first_token_is_replaced(
    failure: str, word: str, cooling: bool
) -> None:
    """Rows 2 and 3: what weighs double leaves the model alone there at once."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", failure=failure, times=0)

        reply = await one.chat("big")

        assert told(reply) == (200, "r2", word, f"r1:{word}, r2:served")
        r1 = one.upstream("r1")
        assert r1.state is NodeState.UP
        assert r1.cooling(BIG, one.runtime.clock.monotonic()) is cooling


async def test_second_failure_of_an_engine_leaves_the_model_alone_there() -> None:
    """Row 2."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", failure="bad-magic", times=0)

        for _ in range(3):
            assert (await one.chat("big")).status == 200

        assert one.asked("/api/chat") == {"r1": 2, "r2": 3}


async def test_failure_of_an_engine_that_nobody_replaces_is_stock_s_own_answer() -> None:
    """Row 3."""
    async with cluster({"local": host("other"), "r1": host("big")}) as one:
        one["r1"].on(route="/api/chat", failure="out-of-memory")

        reply = await one.chat("big")

        assert told(reply) == (500, "r1", "oom", None)
        assert reply.body == error(FAILURES["out-of-memory"].text)


# ---------------------------------------------------------------- busy


async def test_busy_node_is_left_for_another_which_is_no_fallback() -> None:
    """Row 4."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", failure="busy")

        reply = await one.chat("big")

        assert told(reply) == (200, "r2", None, "r1:busy, r2:served")
        assert one.upstream("r1").busy(BIG, one.runtime.clock.monotonic())
        assert one.state("r1") is NodeState.UP


async def test_where_all_are_busy_the_first_one_s_word_is_the_answer() -> None:
    """Row 4."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", status=503, body='{"error":"server busy, r1"}')
        one["r2"].on(route="/api/chat", status=503, body='{"error":"server busy, r2"}')

        reply = await one.chat("big")

        assert told(reply) == (503, "r1", None, "r1:busy, r2:busy")
        assert reply.body == b'{"error":"server busy, r1"}'


# ---------------------------------------------------------------- nobody there


async def test_refused_connection_is_not_noticed() -> None:
    """Row 7."""
    async with cluster(PAIR) as one:
        one["r1"].die()

        reply = await one.chat("big")

        assert told(reply) == (200, "r2", "connect", "r1:connect, r2:served")
        assert one.state("r1") in DOUBTED
        await one.until(lambda: one.state("r1") is NodeState.DOWN, 1.5)
        assert told(await one.chat("big")) == (200, "r2", None, None)


async def test_node_that_takes_no_connection_is_given_up_in_time() -> None:
    """Row 8."""
    async with cluster(PAIR, upstream={"connect": 0.2}) as one:
        one["r1"].die()
        with black_hole(one["r1"].port):
            reply = await one.chat("big")

            assert told(reply) == (200, "r2", "timeout", "r1:timeout, r2:served")
            assert one.state("r1") in DOUBTED
            await one.until(lambda: one.state("r1") is NodeState.DOWN)


async def test_call_at_a_stopped_node_is_moved_when_the_probe_sees_it() -> None:
    """Row 9."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="*", silence=True, times=0)

        reply = await one.chat("big")

        assert told(reply) == (200, "r2", "node-down", "r1:node-down, r2:served")


async def test_call_at_a_stopped_node_stays_where_nobody_else_can_take_it() -> None:
    """Row 9."""
    async with cluster({"local": host("other"), "r1": host("big")}) as one:
        one["r1"].on(route="/api/version", silence=True, times=0)
        one["r1"].on(route="/api/chat", prompt_delay=1.8)

        reply = await one.chat("big")

        assert told(reply) == (200, "r1", None, None)
        assert one.state("r1") is NodeState.DOWN


async def test_call_at_a_stopped_node_is_moved_when_another_comes_back() -> None:
    """Row 9."""
    async with cluster(PAIR) as one:
        one["r2"].die()
        await one.until(lambda: one.state("r2") is NodeState.DOWN)
        one["r1"].on(route="*", silence=True, times=0)
        waiting = asyncio.ensure_future(one.chat("big"))
        await one.until(lambda: one.state("r1") is NodeState.DOWN)
        assert not waiting.done()

        await one["r2"].start()

        assert told(await waiting) == (200, "r2", "node-down", "r1:node-down, r2:served")


@pytest.mark.parametrize("cut", [{"cut_after": 0}, {"cut_after": 9}, {"cut_body_after": 0}])
async def test_connection_that_breaks_before_the_first_byte_is_not_noticed(
    cut: dict[str, int],
) -> None:
    """Row 10: nothing came, half a head came, or all of it."""
    async with cluster(PAIR, health={"interval": 30.0}) as one:
        one["r1"].on(route="/api/chat", **cut)

        reply = await one.chat("big", stream=True)

        assert told(reply) == (200, "r2", "reset", "r1:reset, r2:served")
        assert one.upstream("r1").circuit.fails == 1
        await one.until(lambda: one.state("r1") is NodeState.UP)  # probed at once


async def test_connection_that_had_died_idle_is_replaced_at_the_same_node() -> None:
    """Row 10: it did no harm to anybody."""
    async with cluster(PAIR) as one:
        await one.chat("big")
        one["r1"].on(route="/api/chat", cut_after=0)

        reply = await one.chat("big")

        assert told(reply) == (200, "r1", None, None)
        assert one.upstream("r1").circuit.fails == 0
        assert one.asked("/api/chat") == {"r1": 3}


# ---------------------------------------------------------------- models


async def test_model_that_is_missing_after_all_is_found_elsewhere() -> None:
    """Row 16."""
    async with cluster(PAIR) as one:
        one["r1"].store.remove(parse("big"))

        reply = await one.chat("big")

        assert told(reply) == (
            200,
            "r2",
            "model-not-found",
            "r1:model-not-found, r2:served",
        )
        await one.until(lambda: not one.upstream("r1").inventory.holds(BIG))
        assert one.upstream("r1").circuit.fails == 0


async def test_model_that_nobody_has_is_stock_s_own_404() -> None:
    """Rows 16 and 31."""
    async with cluster(PAIR) as one:
        unknown = await one.chat("nowhere")
        for node in ("r1", "r2"):
            one[node].store.remove(parse("big"))
        gone = await one.chat("big")

        assert told(unknown) == (404, "tower", None, None)
        assert unknown.body == error("model 'nowhere' not found")
        assert told(gone)[:2] == (404, "r1")
        assert gone.body == error("model 'big' not found")


async def test_route_that_an_old_node_lacks_is_asked_of_a_newer_one() -> None:
    """Row 17."""
    async with cluster(PAIR) as one:
        plain = "text/plain"
        page = "404 page not found"
        one["r1"].on(route="/v1/messages", status=404, body=page, content_type=plain, times=0)
        says = [{"role": "user", "content": "hi"}]

        first = await one.post("/v1/messages", model="big", max_tokens=9, messages=says)
        second = await one.post("/v1/messages", model="big", max_tokens=9, messages=says)

        assert told(first) == (200, "r2", "bad-response", "r1:bad-response, r2:served")
        assert told(second) == (200, "r2", None, None)
        assert told(await one.chat("big")) == (200, "r1", None, None)


async def test_unknown_path_is_stock_s_own_404() -> None:
    """Row 17."""
    async with cluster(PAIR) as one:
        reply = await one.post("/api/nothing", model="big")

        assert told(reply) == (404, "tower", None, None)
        assert reply.body == b"404 page not found"
        assert one.asked("/api/nothing") == {"local": 1}


OTHER_BUILD = {"local": host("big=a"), "r1": host("big=b")}


async def test_another_build_of_the_model_is_the_last_resort() -> None:
    """Row 18."""
    async with cluster(OTHER_BUILD) as one:
        one.local.die()

        reply = await one.chat("big")

        assert told(reply) == (200, "r1", "connect", "tower:connect, r1:served")
        assert reply.header("x-ollama-route-reason") == "digest-conflict"


async def test_tokens_of_a_context_never_go_to_another_build() -> None:
    """Row 18."""
    async with cluster(OTHER_BUILD) as one:
        one.local.die()
        waiting = asyncio.ensure_future(
            one.post("/api/generate", model="big", prompt="hi", context=[1, 2])
        )
        await one.until(lambda: one.state("local") is NodeState.DOWN)
        await one.local.start()

        reply = await waiting

        assert told(reply)[:2] == (200, "tower")
        assert one.asked("/api/generate") == {"local": 1}


# ---------------------------------------------------------------- once


async def test_request_that_may_have_changed_something_is_never_repeated() -> None:
    """Row 22."""
    async with cluster(PAIR) as one:
        one.local.on(route="/api/pull", cut_after=0)

        reply = await one.post("/api/pull", model="other")

        assert reply.status == 502
        assert b"outcome unknown" in reply.body
        assert reply.header("retry-after") is None
        assert one.asked("/api/pull") == {"local": 1}


async def test_request_that_changes_something_never_uses_an_old_connection() -> None:
    """Row 22: a stale one would cost it its only attempt."""
    async with cluster(PAIR) as one:
        await one.get("/api/status")
        await one.get("/api/status")
        await one.post("/api/pull", model="other")

        status, again = one.local.ledger.to("/api/status")
        (pull,) = one.local.ledger.to("/api/pull")
        assert status.connection == again.connection != pull.connection


# ---------------------------------------------------------------- bad answers

RAW = ["garbage", "switch", "huge-header", "split-header", "bad-status", "two-lengths", "nothing"]


@pytest.mark.parametrize("raw", RAW)
async def test_answer_that_is_no_http_is_asked_for_elsewhere(raw: str) -> None:
    """Rows 27 and 28; nothing of it comes through."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", raw=raw)

        reply = await one.chat("big")

        word = "reset" if raw == "nothing" else "bad-response"
        assert told(reply) == (200, "r2", word, f"r1:{word}, r2:served")
        assert one.upstream("r1").circuit.fails == 1


@pytest.mark.parametrize("raw", RAW[:-1])
async def test_answer_that_is_no_http_is_a_502_where_nobody_else_is(raw: str) -> None:
    """Row 27."""
    async with cluster({"local": host("other"), "r1": host("big")}) as one:
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
    async with cluster({"local": host("other"), "r1": host("big")}) as one:
        body = '{"error":"draining","reason":"drained"}'
        one["r1"].on(route="/api/chat", status=503, body=body)

        reply = await one.chat("big")

        assert told(reply) == (503, "r1", "drained", None)
        assert reply.body == body.encode()


async def test_sidecar_that_drains_is_not_asked() -> None:
    """Row 29."""
    async with cluster(PAIR) as one:
        sidecar(one["r1"], drain=True)
        _forget_that_it_is_plain(one)
        await one.until(lambda: one.state("r1") is NodeState.DRAINING)

        assert told(await one.chat("big")) == (200, "r2", None, None)


async def test_sidecar_without_its_ollama_is_not_asked() -> None:
    """Row 39."""
    async with cluster(PAIR) as one:
        sidecar(one["r1"], ollama=False)
        _forget_that_it_is_plain(one)
        await one.until(lambda: one.state("r1") is NodeState.DOWN)

        assert told(await one.chat("big")) == (200, "r2", None, None)


def _forget_that_it_is_plain(one: Cluster) -> None:
    # Asked once a minute whether it has become a sidecar.
    one.runtime.prober._watches["r1"]._due._ping = 0.0


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


# ---------------------------------------------------------------- loops, clouds, large bodies


async def test_request_that_was_here_before_is_a_loop() -> None:
    """Row 41."""
    async with cluster(PAIR) as one:
        headers = [("Via", "1.1 elsewhere"), ("Via", "1.1 other, 1.1 tower")]

        reply = await one.chat("big", headers)

        assert reply.status == 508
        assert one.asked("/api/chat") == {}


@pytest.mark.parametrize("model", ["other", "big"])
async def test_hop_mark_keeps_a_request_at_our_own_ollama(model: str) -> None:
    """Row 41."""
    async with cluster(PAIR) as one:
        reply = await one.chat(model, [("X-Ollama-Hop", "1")])

        assert reply.status == (200 if model == "other" else 404)
        assert reply.header("x-ollama-route-reason") == "hop"
        assert one.asked("/api/chat") == {"local": 1}
        assert one.local.ledger.to("/api/chat")[0].header("x-ollama-hop") is None


async def test_hop_mark_is_refused_when_our_own_ollama_is_away() -> None:
    """Row 41."""
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
