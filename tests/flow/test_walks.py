"""The five walks of docs/architecture.md, each from the client's first byte to the log line."""

import asyncio
import json

from ollama_wrap.call import Mode
from ollama_wrap.nodes.health import NodeState
from tests.fakes.cluster import cluster, host
from tests.fakes.raw_http import request_bytes
from tests.flow.rows import PAIR, told

ADMIN = "correct-horse-battery-staple-0123"


async def test_streamed_chat_goes_on_elsewhere_when_the_first_node_dies() -> None:
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", prompt_delay=9.0)
        waiting = asyncio.ensure_future(one.chat("big", stream=True))
        await one.until(lambda: one.asked("/api/chat") == {"r1": 1})

        one["r1"].die()
        reply = await waiting

        lines = [json.loads(line) for line in reply.body.splitlines()]
        assert told(reply) == (200, "r2", "reset", "r1:reset, r2:served")
        assert "".join(line["message"]["content"] for line in lines) == " t0 t1 t2 t3 t4"
        assert (lines[-1]["done"], reply.clean_end) == (True, True)
        assert [len(chunk.splitlines()) for chunk in reply.chunks] == [1] * len(lines)
        line = await one.ended()
        assert (line["node"], line["attempts"]) == ("r2", "r1:reset,r2:served")
        await one.until(lambda: one.state("r1") is NodeState.DOWN)


async def test_pull_reaches_both_of_its_targets_and_their_lists_are_read_again() -> None:
    pulling = host("tiny", registry=("new",))
    async with cluster({"local": host("other"), "r1": pulling, "r2": pulling}) as one:
        one.several = True
        targets = [("X-Ollama-Target-Nodes", "r1, r2")]

        unknown = await one.post("/api/pull", [("X-Ollama-Target-Nodes", "r1,r9")], model="new")
        assert (unknown.status, one.asked("/api/pull")) == (404, {})
        reply = await one.post("/api/pull", targets, model="new")

        lines = [json.loads(line) for line in reply.body.splitlines()]
        assert reply.status == 200
        assert {line["node"] for line in lines[:-1]} == {"r1", "r2"}
        assert lines[-1] == {"status": "success"}
        assert one.asked("/api/pull") == {"r1": 1, "r2": 1}
        (seen,) = one["r1"].ledger.to("/api/pull")
        assert seen.header("x-ollama-target-nodes") is None
        await one.until(
            lambda: all(len(one.upstream(node).inventory.models) == 2 for node in ("r1", "r2"))
        )


async def test_list_is_answered_although_a_node_is_dead() -> None:
    async with cluster(PAIR | {"r3": host("only")}) as one:
        before = json.loads((await one.get("/api/tags")).body)["models"]
        one["r3"].die()
        await one.until(lambda: one.state("r3") is NodeState.DOWN)

        reply = await one.get("/api/tags")
        head = await one.ask("HEAD", "/api/tags")

        names = {row["name"]: row["nodes"] for row in json.loads(reply.body)["models"]}
        assert {row["name"] for row in before} == {"other:latest", "big:latest", "only:latest"}
        assert names == {"other:latest": ["tower"], "big:latest": ["r1", "r2"]}
        assert reply.header("x-ollama-node") is None
        assert (head.status, head.body) == (200, b"")
        assert head.header("content-length") == str(len(reply.body))


async def test_mode_that_an_admin_sets_holds_from_the_next_call_on() -> None:
    hosts = PAIR | {"r1": host("big", entry="priority=0", token_delay=0.1)}
    async with cluster(hosts, admin_token=ADMIN) as one:
        token = [("Authorization", f"Bearer {ADMIN}")]
        running = asyncio.ensure_future(one.chat("big", stream=True))
        await one.until(lambda: one.asked("/api/chat") == {"r1": 1})

        refused = await one.post("/admin/mode", mode="local")
        reply = await one.post("/admin/mode", token, mode="local")
        after = await one.chat("big")
        missing = await one.post("/admin/mode", token)

        assert refused.status == 401
        assert json.loads(reply.body) == {
            "mode": "local",
            "previous": "distributed",
            "reason": "admin",
        }
        assert (after.status, after.header("x-ollama-mode")) == (404, "local")
        assert told(await running)[:2] == (200, "r1")
        assert missing.status == 400
        assert one.runtime.fleets.current.mode is Mode.LOCAL


async def test_client_that_leaves_while_it_waits_was_never_there() -> None:
    hosts = {
        "local": host("other"),
        "r1": host("big", entry="slots=1"),
        "r2": host("big", entry="slots=1"),
    }
    async with cluster(hosts) as one:
        for node in ("r1", "r2"):
            one[node].on(route="/api/chat", prompt_delay=0.4, times=0)
        running = [asyncio.ensure_future(one.chat("big")) for _ in range(2)]
        await one.until(lambda: one.asked("/api/chat") == {"r1": 1, "r2": 1})
        fields = {"model": "big", "messages": [], "stream": False}
        async with one.open(
            request_bytes("POST", "/api/chat", json.dumps(fields).encode())
        ) as talk:
            await one.until(lambda: one.runtime.metrics.totals().waiting == 1)
            talk.leave()
            line = await one.ended()

        assert (line["status"], line["node"], line["attempts"]) == (499, None, None)
        assert one.runtime.metrics.totals().waiting == 0
        assert [told(reply)[0] for reply in await asyncio.gather(*running)] == [200, 200]
        assert one.asked("/api/chat") == {"r1": 1, "r2": 1}


async def test_node_that_is_asked_is_listed_before_its_first_byte() -> None:
    async with cluster({"local": host("other"), "r1": host("big")}) as one:
        one["r1"].on(route="/api/chat", prompt_delay=0.3)
        waiting = asyncio.ensure_future(one.chat("big"))
        await one.until(lambda: one.asked("/api/chat") == {"r1": 1})

        listed = await one.get("/api/distributed/requests")

        (shape,) = json.loads(listed.body)["requests"]
        assert (shape["node"], shape["first_byte"]) == ("r1", None)
        assert (await waiting).status == 200


async def test_requests_to_our_own_routes_are_logged_but_for_those_of_machines() -> None:
    async with cluster({"r1": host("big")}, admin_token="correct-horse-battery-staple-0123") as one:
        for path in ("/health", "/metrics", "/api/distributed/ping", "/api/distributed/metrics"):
            await one.get(path)
        await one.get("/api/distributed/status")
        await one.get("/admin/stats", [("Authorization", "Bearer wrong-token-of-somebody")])

        said = [(line["path"], line["status"]) for line in one.lines()]

        assert said == [("/api/distributed/status", 200), ("/admin/stats", 401)]
        assert "wrong-token" not in one.written.getvalue()
        assert one.runtime.metrics.totals().ended == 0
