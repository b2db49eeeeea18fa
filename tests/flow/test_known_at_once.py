"""What a change did is known before its word of success passes, over sockets."""

import json

from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import RawReply

HOSTS = {"local": host("tiny"), "r1": host("far", registry=("*",))}
#: nothing is looked at unless somebody asks for it
RARELY = {"interval": "60s", "lists_plain": "60s", "loaded_local": "60s"}


async def generate(one: Cluster, model: str) -> RawReply:
    return await one.post("/api/generate", model=model, prompt="hi", stream=False)


async def test_copy_is_asked_for_at_once() -> None:
    async with cluster(HOSTS, health=RARELY) as one:
        copied = await one.post("/api/copy", source="far", destination="farther")
        reply = await generate(one, "farther")

        assert (copied.status, reply.status) == (200, 200)
        assert reply.header("x-ollama-node") == "r1"


async def test_model_that_was_created_is_asked_for_at_once() -> None:
    async with cluster(HOSTS, health=RARELY) as one:
        body = json.dumps({"model": "mine", "from": "far"}).encode()
        created = await one.ask("POST", "/api/create", body)
        reply = await generate(one, "mine")

        assert created.body.endswith(b'{"status":"success"}\n')
        assert (reply.status, reply.header("x-ollama-node")) == (200, "r1")


async def test_deleted_model_is_listed_no_more() -> None:
    async with cluster(HOSTS, health=RARELY) as one:
        await one.ask("DELETE", "/api/delete", b'{"model":"far"}')
        tags = await one.get("/api/tags")

        assert [entry["name"] for entry in json.loads(tags.body)["models"]] == ["tiny:latest"]


async def test_model_that_a_node_pulled_is_asked_for_at_once() -> None:
    async with cluster(HOSTS, health=RARELY) as one:
        to_r1 = [("X-Ollama-Target-Nodes", "r1")]
        lines = await one.post("/api/pull", to_r1, model="new")
        first = await generate(one, "new")
        await one.post("/api/pull", to_r1, model="newer", stream=False)
        second = await generate(one, "newer")

        assert lines.body.endswith(b'{"status":"success"}\n')
        assert [one.header("x-ollama-node") for one in (first, second)] == ["r1", "r1"]


async def test_node_whose_lists_hang_holds_back_no_word_of_success() -> None:
    async with cluster(HOSTS, health=RARELY) as one:
        one["r1"].on(route="/api/tags", delay=3.0, times=0)

        copied = await one.post("/api/copy", source="far", destination="farther")

        assert copied.status == 200


async def test_loaded_model_of_a_plain_node_is_listed_at_once() -> None:
    async with cluster(HOSTS, health=RARELY) as one:
        await generate(one, "far")
        await one.until(lambda: one.upstream("r1").inventory.loaded != {}, 1)
        running = await one.get("/api/ps")

        (entry,) = json.loads(running.body)["models"]
        assert (entry["name"], entry["nodes"]) == ("far:latest", ["r1"])


async def test_model_in_memory_has_no_lists_read_again() -> None:
    async with cluster(HOSTS, health=RARELY) as one:
        await generate(one, "far")
        await one.until(lambda: one.upstream("r1").inventory.loaded != {}, 1)
        before = one.asked("/api/ps")["r1"]
        for _ in range(3):
            await generate(one, "far")

        assert one.asked("/api/ps")["r1"] == before
