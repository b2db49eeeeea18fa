"""Kept answers, when all nodes have gone: through a whole sidecar."""

import json

import pytest

from ollama_wrap.testing import FakeOllama
from tests.fakes.cluster import Cluster, Host, cluster, host
from tests.fakes.raw_http import RawReply

HOSTS = {"local": host("tiny"), "r1": host("tiny")}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def kill(*fakes: FakeOllama) -> None:
    for fake in fakes:
        fake.die()


async def chat(one: Cluster, path: str = "/api/chat", **more: object) -> RawReply:
    return await one.ask("POST", path, json.dumps(CHAT | more).encode())


async def test_kept_answer_is_given_when_every_node_has_died() -> None:
    async with cluster(HOSTS) as one:
        before = await chat(one)
        kill(*one.fakes.values())

        after = await chat(one)

        assert (after.status, after.body, after.clean_end) == (200, before.body, True)
        assert after.chunks == before.chunks
        assert after.header("content-type") == "application/x-ndjson"
        assert after.header("x-ollama-cached-response") == "true"
        assert after.header("age") == "0"
        assert after.header("x-ollama-fallback") == "true"
        assert after.header("x-ollama-fallback-reason") == "connect"
        assert after.header("x-ollama-attempts") == "tower:connect, r1:connect"
        assert after.header("x-ollama-node") is None


async def test_kept_stream_is_given_as_one_object() -> None:
    async with cluster(HOSTS) as one:
        lines = await chat(one)
        kill(*one.fakes.values())

        whole = await chat(one, stream=False)

        said = [json.loads(line)["message"]["content"] for line in lines.body.splitlines()]
        assert json.loads(whole.body)["message"]["content"] == "".join(said)
        assert whole.framing == "length"
        assert whole.header("content-type") == "application/json; charset=utf-8"


async def test_kept_object_is_given_as_lines() -> None:
    async with cluster(HOSTS) as one:
        whole = await chat(one, stream=False)
        kill(*one.fakes.values())

        lines = await chat(one)

        first, last = map(json.loads, lines.body.splitlines())
        assert first["message"] == json.loads(whole.body)["message"]
        assert (first["done"], last["done"], lines.framing) == (False, True, "chunked")


async def test_compatible_stream_is_given_as_it_was() -> None:
    async with cluster(HOSTS) as one:
        before = await chat(one, "/v1/chat/completions", stream=True)
        kill(*one.fakes.values())

        after = await chat(one, "/v1/chat/completions", stream=True)
        other = await chat(one, "/v1/chat/completions")

        assert (after.status, after.body) == (200, before.body)
        assert other.status == 503


async def test_kept_answer_is_not_given_while_a_node_answers() -> None:
    async with cluster(HOSTS) as one:
        await chat(one)
        kill(one.local)

        after = await chat(one)

        assert after.header("x-ollama-node") == "r1"
        assert after.header("x-ollama-cached-response") is None


async def test_broken_answer_is_not_kept() -> None:
    async with cluster(HOSTS) as one:
        one.local.on(route="/api/chat", cut_body_after=200)
        broken = await chat(one)
        kill(*one.fakes.values())

        after = await chat(one)

        assert not broken.clean_end
        assert after.status == 503


@pytest.mark.parametrize(
    "headers", [[("Cache-Control", "no-store")], [("Authorization", "Bearer somebody-else")]]
)
async def test_kept_answer_is_not_for_everybody(headers: list[tuple[str, str]]) -> None:
    async with cluster(HOSTS) as one:
        await chat(one)
        kill(*one.fakes.values())

        after = await one.ask("POST", "/api/chat", json.dumps(CHAT).encode(), headers)

        assert after.status == 503


@pytest.mark.parametrize("hosts,entries", [(HOSTS, 1), ({"local": host("tiny")}, 0)])
async def test_answers_are_kept_in_a_cluster_and_not_in_local_mode(
    hosts: dict[str, Host], entries: int
) -> None:
    async with cluster(hosts) as one:
        await chat(one)
        await one.ended()

        (number,) = one.runtime.metrics.as_dict()["ollama_wrap_cache_entries"]
        assert number["value"] == entries


async def test_model_that_was_deleted_is_missing_though_an_answer_of_it_is_kept() -> None:
    async with cluster({"local": host("tiny"), "r1": host("far")}) as one:
        before = await chat(one, model="far")
        await one.ask("DELETE", "/api/delete", b'{"model":"far"}')

        after = await chat(one, model="far")

        assert (before.status, after.status) == (200, 404)
        assert after.header("x-ollama-cached-response") is None
        assert after.header("x-ollama-fallback") is None
