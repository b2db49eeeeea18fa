"""Lists of a cluster, over sockets."""

import json
import time

from ollama_wrap.nodes.health import NodeState
from tests.fakes.cluster import Cluster, cluster, host

HOSTS = {"local": host("tiny"), "r1": host("tiny", "big")}


async def names(one: Cluster, path: str = "/api/tags") -> dict[str, list[str]]:
    rows = json.loads((await one.get(path)).body)["models"]
    return {row["name"]: row["nodes"] for row in rows}


async def test_list_shows_the_models_of_all_nodes() -> None:
    async with cluster(HOSTS) as one:
        reply = await one.get("/api/tags")

        assert await names(one) == {"tiny:latest": ["tower", "r1"], "big:latest": ["r1"]}
        assert reply.header("content-type") == "application/json; charset=utf-8"
        assert reply.header("x-ollama-distributed") == "true"
        assert reply.header("x-ollama-node") is None


async def test_head_says_how_long_the_list_is() -> None:
    async with cluster(HOSTS) as one:
        for path in ("/api/tags", "/api/version", "/"):
            head, get = await one.ask("HEAD", path), await one.get(path)

            assert head.header("content-length") == str(len(get.body)), path
            assert head.header("content-type") == get.header("content-type")
            assert head.header("date") is not None
            assert get.header("date") is not None


async def test_dead_node_costs_a_list_no_time() -> None:
    async with cluster(HOSTS | {"r2": host("lost", up=False)}) as one:
        began = time.perf_counter()
        lists = [await names(one) for _ in range(20)]

        assert all("lost:latest" not in found for found in lists)
        assert (time.perf_counter() - began) / 20 < 0.02


async def test_silent_ollama_is_not_waited_for() -> None:
    async with cluster(HOSTS, upstream={"list_wait": "0.1s"}) as one:
        one.local.on(route="/api/tags", silence=True, times=0)

        reply = await one.get("/api/tags")

        assert reply.header("x-ollama-route-reason") == "stale-list"
        assert reply.header("x-ollama-fallback-reason") == "timeout"
        assert {row["name"] for row in json.loads(reply.body)["models"]} == {
            "tiny:latest",
            "big:latest",
        }


async def test_loaded_models_of_other_nodes_are_listed() -> None:
    async with cluster(HOSTS) as one:
        await one.chat("big")
        one.runtime.prober.refresh("r1", models=True)
        await one.until(lambda: bool(one.upstream("r1").inventory.loaded))

        assert await names(one, "/api/ps") == {"big:latest": ["r1"]}


async def test_heartbeat_goes_on_while_a_node_is_up() -> None:
    async with cluster(HOSTS) as one:
        one.local.die()

        reply = await one.get("/")

        assert (reply.status, reply.body) == (200, b"Ollama is running")
        assert reply.header("content-type") == "text/plain; charset=utf-8"


async def test_version_says_what_is_around_it() -> None:
    async with cluster(HOSTS) as one:
        live = json.loads((await one.get("/api/version")).body)
        one.local.die()
        await one.until(lambda: one.state("local") is NodeState.DOWN)

        known = json.loads((await one.get("/api/version")).body)

        assert live["version"] == known["version"] == one.local.daemon.options.version
        assert (live["distributed"]["nodes"], live["distributed"]["active"]) == (2, 2)
        assert known["distributed"]["active"] == 1


async def test_page_of_an_allowed_origin_may_read_the_list() -> None:
    async with cluster(HOSTS) as one:
        reply = await one.get("/api/tags", [("Origin", "http://localhost:3000")])

        assert reply.status == 200
        values = [v for n, v in reply.headers if n.lower() == "access-control-allow-origin"]
        assert values == ["http://localhost:3000"]
