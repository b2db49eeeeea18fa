"""What happens before the first byte when nodes fail; rows of the failure table by number."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ollama_wrap.nodes.health import NodeState
from ollama_wrap.testing import FAILURES
from ollama_wrap.testing.names import parse
from tests.fakes.cluster import cluster, host
from tests.flow.rows import ALONE, BIG, PAIR, error, told

DOUBTED = {NodeState.SUSPECT, NodeState.DOWN}


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


async def test_model_that_failed_with_a_long_context_is_asked_with_a_short_one() -> None:
    """Row 3: another set of options is another engine."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", failure="out-of-memory", times=1)
        long, short = {"num_ctx": 131072}, {"num_ctx": 4096, "temperature": 0}

        failed = await one.chat("big", options=long)
        again = await one.chat("big", options=long)
        other = await one.chat("big", options=short)
        plain = await one.chat("big")
        still = await one.chat("big", options=long)

        assert told(failed)[:3] == (200, "r2", "oom")
        nodes = [reply.header("x-ollama-node") for reply in (again, other, plain, still)]
        assert nodes == ["r2", "r1", "r1", "r2"]


async def test_model_that_can_be_shown_is_left_alone_all_the_same() -> None:
    """Rows 2 and 3: a show runs nothing."""
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", failure="bad-magic", times=2)
        await one.chat("big")
        await one.chat("big")
        there = [("X-Ollama-Force-Distributed", "r1")]
        assert (await one.post("/api/show", there, model="big")).status == 200
        assert (await one.get("/v1/models/big", there)).status == 200

        reply = await one.chat("big")

        assert (one.asked("/api/show"), one.asked("/v1/models/big")) == ({"r1": 1}, {"r1": 1})
        assert told(reply)[:2] == (200, "r2")
        assert one.upstream("r1").cooling(BIG, one.runtime.clock.monotonic())


async def test_failure_of_an_engine_that_nobody_replaces_is_stock_s_own_answer() -> None:
    """Row 3."""
    async with cluster(ALONE) as one:
        one["r1"].on(route="/api/chat", failure="out-of-memory")

        reply = await one.chat("big")

        assert told(reply) == (500, "r1", "oom", None)
        assert reply.body == error(FAILURES["out-of-memory"].text)


@pytest.mark.parametrize("status", [400, 500])
async def test_error_that_a_request_earned_is_the_answer_and_blames_nobody(status: int) -> None:
    """Other statuses, and a 500 of no known text, are answers."""
    async with cluster(PAIR) as one:
        body = '{"error":"template: no such thing"}'
        one["r1"].on(route="/api/chat", status=status, body=body, times=0)

        replies = [await one.chat("big") for _ in range(3)]
        await one.settled()

        assert [told(reply) for reply in replies] == [(status, "r1", None, None)] * 3
        assert replies[0].body == body.encode()
        assert not one.upstream("r1").cooling(BIG, one.runtime.clock.monotonic())
        said = one.lines("a node failed with a text that is not known: nothing follows from it")
        assert [line["node"] for line in said] == ["r1"] * (status == 500)


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
    async with cluster(ALONE) as one:
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


async def test_route_that_our_own_ollama_lacks_is_asked_elsewhere_for_good() -> None:
    """Row 17: what it does answer goes on being its own."""
    async with cluster({"local": host("big"), "r1": host("big")}) as one:
        page = {"status": 404, "body": "404 page not found", "content_type": "text/plain"}
        one.local.on(route="/v1/messages", times=0, **page)
        says = [{"role": "user", "content": "hi"}]

        for _ in range(2):
            assert told(await one.chat("big"))[1] == "tower"
            assert (
                await one.post("/v1/messages", model="big", max_tokens=9, messages=says)
            ).status == 200

        assert one.asked("/v1/messages") == {"local": 1, "r1": 2}


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
