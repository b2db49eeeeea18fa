"""What clients see while this process is short of memory, of files, or late."""

import json
from typing import Any

import pytest

from ollama_wrap.observe.pressure import Measure
from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import request_bytes
from tests.flow.rows import BIG, PAIR, SAYS, STREAMS

MEMORY = "server busy: this sidecar is short of memory"
TEXT = {"type": "api_error", "message": MEMORY}
FORMS: dict[str, Any] = {
    "/api/chat": {"error": MEMORY},
    "/api/generate": {"error": MEMORY},
    "/v1/chat/completions": {"error": TEXT | {"param": None, "code": None}},
    "/v1/messages": {"type": "error", "error": TEXT | {"type": "overloaded_error"}},
}


def put(one: Cluster, *measures: Measure) -> None:
    one.runtime.strain.put(frozenset(measures))


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("settings", [{}, {"distributed": False}, {"standalone": True}])
async def test_new_inference_is_refused_in_the_form_of_its_surface(
    path: str, settings: dict[str, Any]
) -> None:
    """Row 44."""
    async with cluster(PAIR, **settings) as one:
        put(one, Measure.REFUSE)
        one.runtime.strain.retry_after = 7

        refused = await one.post(path, model="big", **STREAMS[path])
        put(one)
        taken = await one.post(path, model="other", **STREAMS[path])

        body = json.loads(refused.body)
        body.pop("request_id", None)
        assert (refused.status, refused.header("retry-after")) == (503, "7")
        assert body == FORMS[path]
        assert refused.header("x-ollama-node") is None
        assert taken.status == 200
        assert sum(one.asked(path).values()) == 1


async def test_everything_else_goes_on() -> None:
    """Row 44."""
    async with cluster(PAIR) as one:
        await one.chat("big")
        put(one, *Measure)

        asked = [
            await one.get("/api/tags"),
            await one.get("/api/version"),
            await one.post("/api/show", model="big"),
            await one.post("/api/generate", model="big", keep_alive=0),
            await one.post("/api/pull", model="new"),
            await one.get("/health"),
            await one.get("/metrics"),
            await one.get("/api/distributed/status"),
        ]

        assert [reply.status for reply in asked] == [200] * 8


async def test_low_priority_is_shed_first() -> None:
    async with cluster(PAIR) as one:
        put(one, Measure.SHED)

        low = await one.chat("big", [("X-Ollama-Priority", "low")])
        shown = await one.post("/api/show", [("X-Ollama-Priority", "LOW")], model="big")
        others = [
            await one.chat("big", headers)
            for headers in ([], [("X-Ollama-Priority", "high")], [("X-Ollama-Priority", "odd")])
        ]

        assert (low.status, low.header("retry-after")) == (503, "1")
        assert b"low priority" in low.body
        assert [reply.status for reply in (shown, *others)] == [200] * 4


async def test_body_of_a_call_that_is_refused_is_not_read() -> None:
    async with cluster(PAIR) as one:
        put(one, Measure.REFUSE)
        start = b'{"model":"big","messages":[{"role":"user","content":"' + b"x" * 100_000
        request = request_bytes("POST", "/api/chat", start)
        request = request.replace(b"Content-Length: %d" % len(start), b"Content-Length: 9000000")

        async with one.open(request) as talk:
            reply = await talk.reply()

        assert reply.status == 503
        assert one.asked("/api/chat") == {}


async def test_our_own_routes_end_their_connections_too() -> None:
    async with cluster(PAIR) as one:
        request = request_bytes("GET", "/health/live")
        async with one.open(request) as talk:
            kept = await talk.reply()
            put(one, Measure.BRIEF)
            talk.writer.write(request)
            last = await talk.reply()
            assert await talk.rest() == b""

        assert (kept.header("connection"), last.header("connection")) == (None, "close")


async def test_process_that_is_over_its_limit_says_so_and_recovers() -> None:
    async with cluster(PAIR, memory_limit="1MiB") as one:
        await one.until(lambda: one.runtime.strain.refuse)
        refused = await one.chat("big")
        status = json.loads((await one.get("/api/distributed/status")).body)
        ping = json.loads((await one.get("/api/distributed/ping")).body)
        numbers = (await one.get("/metrics")).body
        wide = one.runtime.settings.model_copy(update={"memory_limit": 1 << 40})
        one.runtime.settings = wide
        await one.until(lambda: not one.runtime.strain.refuse)

        assert refused.status == 503
        held = ["close-idle", "refuse-inference", "spare-memory"]
        assert status["integration_stats"]["overload"] == held
        assert ping["saturated"] is True
        assert b'ollama_wrap_overload{measure="refuse-inference"} 1.0' in numbers
        assert b'ollama_wrap_overload{measure="shed-low"} 0.0' in numbers
        assert (await one.chat("big")).status == 200
        begun, ended = one.lines("overload"), one.lines("overload is over")
        assert [line["measures"] for line in begun] == [" ".join(held)]
        assert [line["ended"] for line in ended] == [" ".join(held)]


async def test_sidecar_that_is_short_of_memory_is_spared_by_others() -> None:
    """Row 44: its ping says so, and where that came too late its refusal does."""
    async with cluster(PAIR) as one:
        one.sidecar("r1")
        await one.until(lambda: one.upstream("r1").sidecar is not None)
        body = json.dumps({"error": MEMORY})
        one["r1"].on(route="/api/chat", status=503, body=body, times=1)
        moved = await one.chat("big")

        one["r1"].script.clear()
        one.sidecar("r1", saturated=True)
        one.runtime.prober.refresh("r1")
        await one.until(lambda: one.upstream("r1").busy(BIG, one.runtime.clock.monotonic() + 9.0))
        spared = await one.chat("big")

        assert moved.header("x-ollama-attempts") == "r1:busy, r2:served"
        assert (spared.header("x-ollama-node"), spared.header("x-ollama-attempts")) == ("r2", None)


async def test_nothing_is_kept_and_nothing_given_from_the_cache_while_memory_is_short() -> None:
    async with cluster(PAIR | {"r2": host("other")}) as one:
        await one.chat("big")
        put(one, Measure.SPARE)
        await one.chat("big", messages=SAYS)
        held = one.runtime.metrics.totals()
        one["r1"].die()
        failed = await one.chat("big")

        assert failed.status == 503
        assert held.cache_hits == 0
        assert b"ollama_wrap_cache_entries 0.0" in one.runtime.metrics.render()
