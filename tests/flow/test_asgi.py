"""The application under servers that are not ours, as docs/asgi.md says."""

import asyncio
import contextlib
import importlib.util
import json
import socket
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from ollama_wrap import app
from ollama_wrap.runtime import Runtime
from tests.fakes.cluster import Cluster, Serve, cluster, host, serving
from tests.fakes.raw_http import request_bytes

HOSTS = {"local": host("tiny"), "r1": host("tiny", "big")}
BLOB = "/api/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
CHAT = {"model": "big", "messages": [{"role": "user", "content": "hi"}]}
MIB = 1024 * 1024


@contextlib.asynccontextmanager
async def hypercorn(runtime: Runtime, sock: socket.socket) -> AsyncIterator[None]:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.loglevel = "ERROR"
    config.include_server_header = config.include_date_header = False
    config.graceful_timeout = 1.0
    over = asyncio.Event()
    made: Any = app.application(runtime)
    task = asyncio.ensure_future(serve(made, config, mode="asgi", shutdown_trigger=over.wait))
    try:
        yield
    finally:
        over.set()
        await task


def servers() -> list[Any]:
    absent = importlib.util.find_spec("hypercorn") is None
    skip = pytest.mark.skipif(absent, reason="hypercorn is not installed")
    return [
        pytest.param(partial(serving, http="h11"), id="uvicorn-h11"),
        pytest.param(partial(serving, http="httptools"), id="uvicorn-httptools"),
        pytest.param(hypercorn, id="hypercorn", marks=skip),
    ]


pytestmark = pytest.mark.parametrize("serve", servers())


def posted(target: str, **fields: Any) -> bytes:
    return request_bytes("POST", target, json.dumps(fields).encode())


async def test_lists_answers_and_our_own_routes_are_there(serve: Serve) -> None:
    async with cluster(HOSTS, serve=serve) as one:
        tags = await one.get("/api/tags")
        said = await one.chat("big")
        status = await one.get("/api/distributed/status")
        unknown = await one.get("/nope")

    assert {model["name"] for model in json.loads(tags.body)["models"]} == {
        "tiny:latest",
        "big:latest",
    }
    assert (said.status, said.header("x-ollama-node")) == (200, "r1")
    assert json.loads(status.body)["cluster_size"] == 2
    assert (unknown.status, unknown.body) == (404, b"404 page not found")


async def test_tokens_pass_one_by_one(serve: Serve) -> None:
    async with cluster(HOSTS, serve=serve) as one:
        one["r1"].on(route="/api/chat", token_delay=0.05)
        async with one.open(posted("/api/chat", **CHAT)) as talk:
            await talk.until(b"\r\n\r\n")
            first = await talk.until(b"\n")
            early = one["r1"].ledger.counts.generations_finished
            reply = await talk.until(b'"done":true')

    assert first
    assert early == 0
    assert reply.count(b"message") >= 5


async def test_client_that_leaves_frees_the_node(serve: Serve) -> None:
    async with cluster(HOSTS, serve=serve) as one:
        one["r1"].on(route="/api/chat", prompt_delay=30.0)
        async with one.open(posted("/api/chat", **CHAT)) as talk:
            await one.until(lambda: one["r1"].ledger.counts.running == 1)
            talk.leave()
            await one.until(lambda: one["r1"].ledger.counts.running == 0)

        assert (await one.ended())["status"] == 499


async def test_broken_stream_does_not_look_whole(serve: Serve) -> None:
    async with cluster(HOSTS, serve=serve) as one:
        one["r1"].on(route="/api/chat", cut_body_after=200)

        reply = await one.chat("big", stream=True)

    assert b'{"error":' in reply.body
    assert not reply.clean_end


async def test_upload_arrives_whole(serve: Serve) -> None:
    async with cluster(HOSTS, serve=serve) as one:
        body = bytes(3 * MIB)
        sized = await one.ask("POST", BLOB, body)
        chunked = await one.ask("POST", BLOB, body, [("Transfer-Encoding", "chunked")])
        seen = [entry.body_size for entry in one.local.ledger.to(BLOB)]

    assert seen == [len(body)] * 2
    assert sized.status == chunked.status


async def test_nodes_are_left_when_the_server_stops(serve: Serve) -> None:
    made: Cluster | None = None

    async with cluster(HOSTS, serve=serve) as one:
        made = one
        await one.chat("big")

    assert made.runtime.pipeline.budget.running == 0
    assert made.runtime.prober.first_round.is_set()
