"""One call to several nodes, over sockets."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollama_wrap.nodes.health import NodeState
from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import RawReply, request_bytes

HOSTS = {node: host("tiny", registry=("*",)) for node in ("local", "r1", "r2")}


@contextlib.asynccontextmanager
async def several(**settings: Any) -> AsyncIterator[Cluster]:
    """A cluster in which one request may change several nodes."""
    async with cluster(HOSTS, check=False, **settings) as one:
        yield one
        await one.until(lambda: all(one.upstream(node).in_flight == 0 for node in HOSTS))


def targets(nodes: str) -> list[tuple[str, str]]:
    return [("X-Ollama-Target-Nodes", nodes)]


def lines(reply: RawReply) -> list[dict[str, Any]]:
    return [json.loads(line) for line in reply.body.splitlines()]


async def pull(one: Cluster, nodes: str, **more: object) -> RawReply:
    return await one.post("/api/pull", targets(nodes), model="fresh", **more)


# ---------------------------------------------------------------- pull, push, delete


async def test_pull_goes_to_the_named_nodes_and_tells_who_said_what() -> None:
    async with several() as one:
        reply = await pull(one, "r1, r2")

        said = lines(reply)
        assert (reply.status, reply.framing, reply.clean_end) == (200, "chunked", True)
        assert reply.header("content-type") == "application/x-ndjson"
        assert said[-1] == {"status": "success"}
        assert {line["node"] for line in said[:-1]} == {"r1", "r2"}
        assert one.asked("/api/pull") == {"r1": 1, "r2": 1}


async def test_lines_pass_as_they_come_with_their_node_added() -> None:
    async with several() as one:
        direct = await one.post("/api/pull", model="fresh")
        reply = await pull(one, "r1")

        marked = [line[:-1] + b',"node":"r1"}' for line in direct.body.splitlines()]
        assert reply.body.splitlines() == [*marked, b'{"status":"success"}']


async def test_pulled_model_is_known_at_once() -> None:
    async with several(health={"interval": "60s", "lists_plain": "60s"}) as one:
        await pull(one, "r1")

        await one.until(lambda: "fresh" in str(one.upstream("r1").inventory.models.keys()), 2)


async def test_all_means_every_node_once() -> None:
    async with several() as one:
        reply = await pull(one, "all,r1")

        assert lines(reply)[-1] == {"status": "success"}
        assert one.asked("/api/pull") == {"local": 1, "r1": 1, "r2": 1}


async def test_our_header_is_not_sent_on() -> None:
    async with several() as one:
        await pull(one, "local")

        (seen,) = one.local.ledger.to("/api/pull")
        assert seen.header("x-ollama-target-nodes") is None


async def test_unknown_node_is_named_and_nothing_is_sent() -> None:
    async with several() as one:
        reply = await pull(one, "r1,nobody")

        assert reply.status == 404
        assert "nobody" in json.loads(reply.body)["error"]
        assert one.asked("/api/pull") == {}


async def test_fault_of_one_node_ends_the_stream_after_the_others_success() -> None:
    async with several() as one:
        one["r2"].on(route="/api/pull", status=500, body='{"error":"disk full"}')

        said = lines(await pull(one, "r1,r2"))

        assert said[-1] == {"error": "r2: disk full"}
        assert {"status": "success", "node": "r1"} in said
        assert all("error" not in line for line in said[:-1])


@pytest.mark.parametrize(
    "rule,text",
    [
        ({"status": 200, "body": '{"status":"x"}\n{"error":"no"}\n'}, "no"),
        ({"status": 200, "body": "hello\n"}, "its answer cannot be read"),
        ({"status": 200, "body": '{"status":"pulling"}'}, "it ended without success"),
        ({"status": 404, "body": "what?"}, "it answered 404"),
        ({"cut_body_after": 60}, "the node ended the connection"),
        ({"die_after": 0}, None),
    ],
    ids=["error line", "no lines", "no end", "no object", "cut", "death"],
)
async def test_every_way_to_fail_is_told(rule: dict[str, Any], text: str | None) -> None:
    async with several() as one:
        if "die_after" in rule:
            one["r2"].die()
        else:
            one["r2"].on(route="/api/pull", **rule)

        said = lines(await pull(one, "r1,r2"))

        assert said[-1]["error"].startswith(f"r2: {text or ''}")


async def test_node_whose_lines_never_end_is_given_up() -> None:
    async with several() as one:
        one["r1"].on(route="/api/pull", status=200, body="x" * 3_000_000)

        said = lines(await pull(one, "r1"))

        assert said == [{"error": "r1: a line of its answer is too long"}]


async def test_results_are_one_object_where_no_stream_is_wanted() -> None:
    async with several() as one:
        one["r2"].on(route="/api/pull", status=500, body='{"error":"disk full"}')

        bad = await pull(one, "r1,r2", stream=False)
        good = await pull(one, "r1", stream=False)

        assert (bad.status, good.status) == (502, 200)
        assert json.loads(bad.body) == {
            "results": {
                "r1": {"status": 200, "error": None},
                "r2": {"status": 500, "error": "disk full"},
            }
        }


async def test_silent_node_has_no_status() -> None:
    async with several() as one:
        one["r1"].die()
        one["r2"].on(route="/api/pull", cut_body_after=3)

        reply = await pull(one, "r1,r2", stream=False)

        results = json.loads(reply.body)["results"]
        assert [one["status"] for one in results.values()] == [None, None]
        assert all(one["error"] for one in results.values())


async def test_model_is_deleted_at_the_named_nodes() -> None:
    async with several() as one:
        body = b'{"model":"tiny"}'
        reply = await one.ask("DELETE", "/api/delete", body, targets("r1,r2"))

        assert json.loads(reply.body)["results"].keys() == {"r1", "r2"}
        await one.until(lambda: not one.upstream("r1").inventory.models)
        assert one.asked("/api/delete") == {"r1": 1, "r2": 1}


async def test_who_is_not_trusted_deletes_nothing_elsewhere() -> None:
    async with several() as one:
        headers = [*targets("r1"), ("X-Forwarded-For", "8.8.8.8")]
        reply = await one.ask("DELETE", "/api/delete", b'{"model":"tiny"}', headers)

        assert reply.status == 403
        assert one.asked("/api/delete") == {}


async def test_client_that_leaves_ends_every_pull() -> None:
    async with several() as one:
        for node in ("r1", "r2"):
            one[node].on(route="/api/pull", token_delay=5, times=0)
        body = b'{"model":"fresh"}'
        request = request_bytes("POST", "/api/pull", body, targets("r1,r2"))

        async with one.open(request) as talk:
            await talk.until(b"\r\n\r\n")
            await one.until(lambda: one.asked("/api/pull") == {"r1": 1, "r2": 1})
            talk.leave()
            await one.until(lambda: one.upstream("r1").in_flight == 0, 1)

        await one.until(lambda: one.upstream("r2").in_flight == 0, 1)
        await one.until(
            lambda: all(
                entry.end.value in {"cancelled", "cut"}
                for node in ("r1", "r2")
                for entry in one[node].ledger.to("/api/pull")
            ),
            2,
        )


# ---------------------------------------------------------------- unloading


async def unload(one: Cluster, model: str = "tiny") -> RawReply:
    return await one.post("/api/generate", model=model, keep_alive=0)


async def warm(one: Cluster, *nodes: str) -> None:
    for node in nodes:
        await one.chat("tiny", [("X-Ollama-Force-Distributed", node)])
        one.runtime.prober.refresh(node, models=True)
        await one.until(lambda: bool(one.upstream(node).inventory.loaded))  # noqa: B023
    for node in HOSTS:
        one[node].ledger.reset()


async def test_model_is_unloaded_wherever_it_is_loaded() -> None:
    async with cluster(HOSTS) as one:
        await warm(one, "r1", "r2")

        reply = await unload(one)

        assert json.loads(reply.body)["done_reason"] == "unload"
        assert one.upstream(reply.header("x-ollama-node") or "").inventory.loaded == {}
        await one.until(lambda: all(one[node].ledger.counts.unloads == 1 for node in ("r1", "r2")))
        await one.until(lambda: not one.upstream("r1").inventory.loaded)


async def test_first_success_answers_though_another_node_is_slow() -> None:
    async with cluster(HOSTS) as one:
        await warm(one, "r1", "r2")
        one["r1"].on(route="/api/generate", delay=1.0)
        one.local.on(route="/api/generate", delay=1.0)

        reply = await asyncio.wait_for(unload(one), 0.8)

        assert reply.header("x-ollama-node") == "r2"
        await one.until(lambda: one["r1"].ledger.counts.unloads == 1)


async def test_node_that_fails_to_unload_does_not_hide_the_success_of_another() -> None:
    async with cluster({"local": host("other"), "r1": host("tiny"), "r2": host("tiny")}) as one:
        await warm(one, "r1", "r2")
        one["r1"].on(route="/api/generate", status=500, body='{"error":"no"}')
        one["r2"].on(route="/api/generate", delay=0.2)

        reply = await unload(one)

        assert (reply.status, reply.header("x-ollama-node")) == (200, "r2")


async def test_error_passes_where_nobody_unloads() -> None:
    async with cluster({"local": host("other"), "r1": host("tiny"), "r2": host("tiny")}) as one:
        await warm(one, "r1", "r2")
        one["r1"].on(route="/api/generate", status=500, body='{"error":"no"}')
        one["r2"].die()

        reply = await unload(one)

        assert (reply.status, reply.body) == (500, b'{"error":"no"}')


async def test_silence_everywhere_is_an_error_that_names_the_nodes() -> None:
    async with cluster({"local": host("other"), "r1": host("tiny"), "r2": host("tiny")}) as one:
        await warm(one, "r1", "r2")
        for node in ("r1", "r2"):
            one[node].on(route="/api/generate", cut_body_after=-10_000, times=0)
            one[node].on(route="/api/generate", raw="nothing", times=0)

        reply = await unload(one)

        assert reply.status in {502, 503}
        assert all(node in reply.body.decode() for node in ("r1", "r2"))


async def test_model_that_is_loaded_nowhere_is_unloaded_where_it_is() -> None:
    async with cluster({"local": host("other"), "r1": host("tiny")}) as one:
        reply = await unload(one)

        assert (reply.status, reply.header("x-ollama-node")) == (200, "r1")


async def test_client_that_leaves_ends_the_unloading() -> None:
    async with cluster(HOSTS, check=False) as one:
        await warm(one, "r1")
        for node in HOSTS:
            one[node].on(route="/api/generate", delay=5, times=0)
        body = b'{"model":"tiny","keep_alive":0}'

        async with one.open(request_bytes("POST", "/api/generate", body)) as talk:
            await one.until(lambda: one.asked("/api/generate") == {"local": 1, "r1": 1})
            talk.leave()
            await one.until(
                lambda: one.upstream("r1").in_flight == one.upstream("local").in_flight == 0, 1
            )


async def test_dead_node_is_not_asked_to_unload() -> None:
    async with cluster(HOSTS) as one:
        await warm(one, "r1")
        one["r1"].die()
        await one.until(lambda: one.state("r1") is NodeState.DOWN)

        reply = await unload(one)

        assert (reply.status, reply.header("x-ollama-attempts")) == (200, None)
