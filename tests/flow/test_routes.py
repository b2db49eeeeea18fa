"""Rules of OLLAMA_WRAP_ROUTES: a name that other nodes serve under names of their own."""

import asyncio
import json
from typing import Any

import pytest

from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.nodes import key
from tests.flow.rows import SAYS, STREAMS, told

HOSTS = {"local": host("other"), "r1": host("big"), "r2": host("small")}
RULE = "gpt-4*=r1;model=big|r2;model=small;priority=1"


def routes(text: str = RULE, **more: Any) -> dict[str, Any]:
    return {"routing": {"routes": text, **more}}


def sent(one: Cluster, node: str, path: str = "/api/chat") -> list[bytes]:
    return [entry.body for entry in one[node].ledger.to(path)]


# ---------------------------------------------------------------- another name


async def test_name_is_served_under_another_one_by_the_node_of_the_rule() -> None:
    async with cluster(HOSTS, **routes()) as one:
        reply = await one.chat("gpt-4o")

        assert told(reply) == (200, "r1", None, None)
        assert reply.header("x-ollama-route-reason") == "priority"
        assert reply.header("x-ollama-model") == "big"
        assert json.loads(reply.body)["model"] == "big"
        assert one.asked("/api/chat") == {"r1": 1}
        assert (await one.ended())["model"] == "gpt-4o"


async def test_nothing_but_the_name_and_the_length_is_changed() -> None:
    body = b' { "stream" : false,"\\u006dodel":"gpt-4", "messages":[{"role":"user",'
    body += b'"content":"model \\ud83d\\ude00 gpt-4"}],"options":{"seed":7.0}}\n'
    async with cluster(HOSTS, **routes()) as one:
        first = await one.ask("POST", "/api/chat", body, [("X-Own", "1"), ("Accept", "*/*")])

        assert first.status == 200
        (entry,) = one["r1"].ledger.to("/api/chat")
        assert entry.body == body.replace(b'del":"gpt-4"', b'del":"big"')
        fields = {name.lower(): value for name, value in entry.headers}
        assert fields["content-length"] == str(len(body) - 2)
        assert (fields["x-own"], fields["accept"]) == ("1", "*/*")


@pytest.mark.parametrize("path", STREAMS)
async def test_every_dialect_streams_from_the_endpoint(path: str) -> None:
    async with cluster(HOSTS, **routes()) as one:
        reply = await one.post(path, model="gpt-4", **STREAMS[path])

        assert told(reply)[:2] == (200, "r1")
        assert json.loads(sent(one, "r1", path)[0])["model"] == "big"
        assert (await one.ended())["node"] == "r1"


async def test_body_that_came_in_chunks_gets_a_length() -> None:
    part = json.dumps({"model": "gpt-4", "messages": SAYS, "stream": False}).encode()
    head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with cluster(HOSTS, **routes()) as one:
        async with one.open(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(part), part)) as talk:
            reply = await talk.reply()

        assert told(reply)[:2] == (200, "r1")
        assert sent(one, "r1") == [part.replace(b"gpt-4", b"big")]


async def test_loading_and_showing_follow_the_rule() -> None:
    async with cluster(HOSTS, **routes()) as one:
        loaded = await one.post("/api/generate", model="gpt-4")
        shown = await one.post("/api/show", name="gpt-4")

        assert (told(loaded)[:2], told(shown)[:2]) == ((200, "r1"), (200, "r1"))
        assert sent(one, "r1", "/api/show") == [b'{"name": "big"}']


async def test_local_ollama_may_be_an_endpoint() -> None:
    async with cluster(HOSTS, **routes("gpt-4=local;model=other")) as one:
        reply = await one.chat("gpt-4")

        assert told(reply)[:2] == (200, "tower")
        assert reply.header("x-ollama-route-reason") == "policy"
        assert reply.header("x-ollama-model") == "other"


async def test_endpoint_of_the_same_name_gets_the_body_as_it_came() -> None:
    hosts = {"local": host("big"), "r1": host("big"), "r2": host("big")}
    async with cluster(hosts, **routes("big=r2")) as one:
        body = json.dumps({"model": "Big", "messages": SAYS, "stream": False}).encode()

        replies = [await one.ask("POST", "/api/chat", body) for _ in range(3)]

        assert {told(reply)[:2] for reply in replies} == {(200, "r2")}
        assert replies[0].header("x-ollama-model") is None
        assert sent(one, "r2") == [body] * 3


# ---------------------------------------------------------------- from one to the next


async def test_endpoint_that_dies_leaves_the_call_to_the_next() -> None:
    async with cluster(HOSTS, **routes()) as one:
        one["r1"].die()

        reply = await one.chat("gpt-4")

        assert told(reply) == (200, "r2", "connect", "r1:connect, r2:served")
        assert reply.header("x-ollama-model") == "small"
        assert json.loads(sent(one, "r2")[0])["model"] == "small"


async def test_model_that_is_gone_at_an_endpoint_leaves_the_call_to_the_next() -> None:
    async with cluster(HOSTS, **routes(), health={"interval": 60.0}) as one:
        one["r1"].on(route="/api/chat", status=404, body='{"error":"model \'big\' not found"}')

        reply = await one.chat("gpt-4")

        assert told(reply)[:2] == (200, "r2")
        assert one.asked("/api/chat") == {"r1": 1, "r2": 1}


async def test_endpoints_that_are_all_away_are_said_with_the_name_that_was_asked_for() -> None:
    async with cluster(HOSTS, **routes("gpt-4=r1;model=big")) as one:
        one["r1"].die()
        await one.until(lambda: one.state("r1") == "down")

        reply = await one.chat("gpt-4")

        assert reply.status == 503
        assert (
            "model 'gpt-4' is on r1, which has not answered since"
            in json.loads(reply.body)["error"]
        )


async def test_busy_endpoint_leaves_calls_to_the_next() -> None:
    hosts = {**HOSTS, "r1": host("big", entry="slots=1")}
    async with cluster(hosts, **routes()) as one:
        one["r1"].on(route="/api/chat", prompt_delay=0.3, times=0)
        first = asyncio.ensure_future(one.chat("gpt-4"))
        await one.until(lambda: one.upstream("r1").running(key("big")) == 1)

        second = await one.chat("gpt-4")

        assert told(second)[:2] == (200, "r2")
        assert second.header("x-ollama-route-reason") == "busy"
        assert told(await first)[:2] == (200, "r1")


async def test_call_waits_for_endpoints_whose_slots_are_declared() -> None:
    hosts = {
        "local": host("other"),
        "r1": host("big", entry="slots=1"),
        "r2": host("small", entry="slots=1"),
    }
    async with cluster(hosts, **routes()) as one:
        one["r1"].on(route="/api/chat", prompt_delay=2.0, times=0)
        one["r2"].on(route="/api/chat", prompt_delay=0.3, times=0)
        running = [asyncio.ensure_future(one.chat("gpt-4")) for _ in range(2)]
        await one.until(lambda: one.asked("/api/chat") == {"r1": 1, "r2": 1})
        third = asyncio.ensure_future(one.chat("gpt-4"))
        await one.until(lambda: one.runtime.metrics.totals().waiting == 1)

        assert told(await third)[:2] == (200, "r2")

        assert one["r2"].ledger.counts.max_running == 1
        assert one.upstream("r2").running(key("small")) == 0
        await asyncio.gather(*running)


async def test_weights_share_the_calls_out() -> None:
    rule = "gpt-4=r1;model=big;weight=1|r2;model=small;weight=1|local;model=other;priority=1"
    async with cluster(HOSTS, **routes(rule)) as one:
        for _ in range(60):
            await one.chat("gpt-4")

        shares = one.asked("/api/chat")
        assert sum(shares.values()) == 60
        # Fewer than 12 of 60 happen once in a million times.
        assert min(shares["r1"], shares["r2"]) >= 12


# ---------------------------------------------------------------- what is seen of it


async def test_dry_run_names_the_models() -> None:
    async with cluster(HOSTS, **routes()) as one:
        reply = await one.chat("gpt-4", [("X-Dry-Run", "true")])

        ranking = json.loads(reply.body)["ranking"]
        assert [(row["node"], row["model"]) for row in ranking] == [("r1", "big"), ("r2", "small")]
        assert one.asked("/api/chat") == {}


async def test_debug_line_names_the_models() -> None:
    async with cluster(HOSTS, level="debug", **routes()) as one:
        await one.chat("gpt-4")
        await one.ended()

        (line,) = one.lines("routed")
        assert line["model"] == "gpt-4"
        assert [part.rpartition(":")[2] for part in line["candidates"].split()] == ["big", "small"]


# ---------------------------------------------------------------- no rule


async def test_rule_whose_model_nobody_has_changes_nothing() -> None:
    async with cluster(HOSTS, **routes("big=r2;model=none,gpt-4=r9;model=big")) as one:
        assert told(await one.chat("big"))[:2] == (200, "r1")
        assert told(await one.chat("gpt-4"))[:2] == (404, "tower")


async def test_body_without_a_certain_place_for_the_name_goes_as_it_came() -> None:
    body = b'{"model":"gpt-4","model":"gpt-4","messages":[],"stream":false}'
    async with cluster(HOSTS, **routes()) as one:
        reply = await one.ask("POST", "/api/chat", body)

        assert told(reply)[:2] == (404, "tower")
        assert sent(one, "local") == [body]
        assert told(await one.chat("gpt-4"))[:2] == (200, "r1")


async def test_body_that_is_not_kept_goes_to_endpoints_of_its_own_name_alone() -> None:
    rule = "big*=r2;model=small|r1;priority=1"
    async with cluster(HOSTS, **routes(rule), upstream={"replay_limit": 64}) as one:
        reply = await one.chat("big", x="y" * 200)

        assert told(reply)[:2] == (200, "r1")
        assert json.loads(sent(one, "r1")[0])["model"] == "big"


@pytest.mark.parametrize("text", ["gpt-4=r1;weight=none", '{"gpt-4": '])
async def test_rules_that_cannot_be_read_leave_a_sidecar_that_passes_through(text: str) -> None:
    async with cluster({"local": host("big"), "r1": host("big")}, **routes(text)) as one:
        reply = await one.chat("big")

        assert (reply.status, reply.header("x-ollama-mode")) == (200, "local")
        (problem,) = one.runtime.problems
        assert problem.startswith("OLLAMA_WRAP_ROUTES: ")
        assert any(line["event"] == problem for line in one.lines(problem))
