"""What follows a model to the node that holds it, over sockets."""

import json

import pytest

from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import Headers, RawReply

HOSTS = {
    "local": host("tiny", registry=("*",)),
    "r1": host("big", "both"),
    "r2": host("both"),
}
STRANGER: Headers = [("X-Forwarded-For", "8.8.8.8")]
TOKEN = "correct-horse-battery-staple-0123"


async def delete(one: Cluster, model: str, headers: Headers | None = None) -> RawReply:
    return await one.ask("DELETE", "/api/delete", json.dumps({"model": model}).encode(), headers)


async def create(one: Cluster, **more: object) -> RawReply:
    body = {"model": "mine", "from": "big"} | more
    return await one.ask("POST", "/api/create", json.dumps(body).encode())


async def test_model_of_one_other_node_is_deleted_there() -> None:
    async with cluster(HOSTS) as one:
        reply = await delete(one, "big")

        assert (reply.status, reply.header("x-ollama-node")) == (200, "r1")
        assert reply.header("x-ollama-route-reason") == "model-missing"
        assert one.asked("/api/delete") == {"r1": 1}


async def test_deleted_model_is_forgotten_at_once() -> None:
    async with cluster(HOSTS, health={"interval": "60s", "lists_plain": "60s"}) as one:
        await delete(one, "big")

        await one.until(lambda: "big" not in str(one.upstream("r1").inventory.models.keys()), 2)


async def test_copied_model_is_known_at_once() -> None:
    async with cluster(HOSTS, health={"interval": "60s", "lists_plain": "60s"}) as one:
        reply = await one.post("/api/copy", source="tiny", destination="twin")

        assert (reply.status, reply.header("x-ollama-node")) == (200, "tower")
        await one.until(lambda: "twin" in str(one.upstream("local").inventory.models.keys()), 2)


async def test_copy_goes_where_its_source_is() -> None:
    async with cluster(HOSTS) as one:
        reply = await one.post("/api/copy", source="big", destination="tiny")

        assert (reply.status, reply.header("x-ollama-node")) == (200, "r1")


async def test_create_goes_where_its_base_is() -> None:
    async with cluster(HOSTS) as one:
        reply = await create(one)

        assert reply.header("x-ollama-node") == "r1"
        assert reply.body.endswith(b'{"status":"success"}\n')


async def test_create_from_files_stays_with_its_blobs() -> None:
    async with cluster(HOSTS) as one:
        await create(one, files={"m.gguf": "sha256:" + "0" * 64})

        assert one.asked("/api/create") == {"local": 1}


@pytest.mark.parametrize("model", ["tiny", "nobodys", "../x", ""])
async def test_what_is_here_or_nowhere_is_answered_here(model: str) -> None:
    async with cluster(HOSTS) as one:
        reply = await delete(one, model)

        assert reply.header("x-ollama-node") == "tower"
        assert one.asked("/api/delete") == {"local": 1}


async def test_model_of_several_nodes_is_not_guessed() -> None:
    async with cluster(HOSTS) as one:
        reply = await delete(one, "both")

        assert reply.status == 409
        assert "r1, r2" in json.loads(reply.body)["error"]
        assert one.asked("/api/delete") == {}


async def test_named_node_is_meant() -> None:
    async with cluster(HOSTS) as one:
        reply = await delete(one, "both", [("X-Ollama-Force-Distributed", "r2")])

        assert (reply.status, reply.header("x-ollama-route-reason")) == (200, "forced")
        assert one.asked("/api/delete") == {"r2": 1}


async def test_stranger_changes_no_other_node_without_the_token() -> None:
    async with cluster(HOSTS, admin_token=TOKEN) as one:
        refused = await delete(one, "big", STRANGER)
        token = ("Authorization", f"Bearer {TOKEN}")
        allowed = await delete(one, "big", [*STRANGER, token])

        assert (refused.status, allowed.status) == (403, 200)
        assert "OLLAMA_ADMIN_TOKEN" in json.loads(refused.body)["error"]
        (seen,) = one["r1"].ledger.to("/api/delete")
        assert seen.header("authorization") is None


async def test_holder_that_died_is_named() -> None:
    async with cluster(HOSTS) as one:
        one["r1"].die()

        reply = await delete(one, "big")

        assert reply.status == 503
        assert "r1" in json.loads(reply.body)["error"]


async def test_show_is_answered_by_a_holder() -> None:
    async with cluster(HOSTS) as one:
        reply = await one.post("/api/show", STRANGER, model="big")

        assert (reply.status, reply.header("x-ollama-node")) == (200, "r1")
