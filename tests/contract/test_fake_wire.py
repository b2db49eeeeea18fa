"""The fake Ollama reads requests as Go and stock do, where no recording reaches."""

import asyncio
import json
import socket

import pytest

from ollama_wrap.testing import FakeOllama, ModelSpec
from tests.fakes.raw_http import Headers, ask, fetch, read_reply, request_bytes

ZEROS = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    "name, status",
    [
        ("tiny", 200),
        (" tiny ", 200),
        ("TINY:Latest", 200),
        ("library/tiny", 200),
        ("https://registry.ollama.ai/library/tiny:latest", 200),
        ("tiny:local", 200),
        ("tiny:2", 404),
        ("ollama.com/library/tiny", 404),
        ("me/tiny", 404),
        ("tiny@sha256:aa", 400),
        ("a b", 400),
        ("../tiny", 400),
        ("tiny:cloud", 401),
        ("tiny:1b-cloud", 401),
        ("tiny:local:cloud", 400),
    ],
)
async def test_names_are_read_as_stock_reads_them(name: str, status: int) -> None:
    async with FakeOllama() as fake:
        body = json.dumps({"model": name, "prompt": "hi", "stream": False}).encode()

        reply = await ask(fake.port, "POST", "/api/generate", body)

        assert reply.status == status
        assert status != 200 or json.loads(reply.body)["model"] == name


@pytest.mark.parametrize(
    "body, text",
    [
        (b" \n", "missing request body"),
        (b'{"model":', "unexpected EOF"),
        (b'{"model":"ti', "unexpected EOF"),
        (b"tiny", "invalid character 'i' in literal true (expecting 'r')"),
        (b"{model:1}", "invalid character 'm' looking for beginning of object key string"),
        (b'{"model";1}', "invalid character ';' after object key"),
        (b'{"model":"a" "b"}', "invalid character '\"' after object key:value pair"),
        (b'{"messages":[1 2]}', "invalid character '2' after array element"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (
            b'{"model":{}}',
            "json: cannot unmarshal object into Go struct field ChatRequest.model of type string",
        ),
        (b'{"model":"tiny","keep_alive":"abc"}', 'time: invalid duration "abc"'),
        (b'{"model":"tiny","keep_alive":""}', 'time: invalid duration ""'),
    ],
)
async def test_unreadable_bodies_get_the_sentence_of_go(body: bytes, text: str) -> None:
    async with FakeOllama() as fake:
        reply = await ask(fake.port, "POST", "/api/chat", body)

        assert reply.status == 400
        assert json.loads(reply.body) == {"error": text}


async def test_last_of_equal_keys_wins_in_any_case_and_null_is_absent() -> None:
    async with FakeOllama() as fake:
        body = '{"model":"nope","MODEL":"tiny","model":null,"\u017ftream":false,"prompt":"a"}'

        reply = await ask(fake.port, "POST", "/api/generate", body.encode())

        assert json.loads(reply.body)["done"] is True


@pytest.mark.parametrize(
    "host, status",
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("127.0.0.1:99", 200),
        ("10.1.2.3", 200),
        ("0.0.0.0", 200),
        ("[::1]:80", 200),
        ("[fd00::1]", 200),
        ("a.localhost", 200),
        ("host.docker.internal", 200),
        (socket.gethostname(), 200),
        ("example.com", 403),
        ("8.8.8.8", 403),
        ("ollama", 403),
        ("localhost.", 403),
        ("[fe80::1]", 403),
        ("100.64.0.5", 403),
    ],
)
async def test_hosts_are_allowed_as_on_a_loopback_bind(host: str, status: int) -> None:
    async with FakeOllama() as fake:
        reply = await ask(fake.port, "GET", "/api/version", headers=[("Host", host)])

        assert reply.status == status


@pytest.mark.parametrize(
    "headers, status, allowed",
    [
        ([("Origin", "http://127.0.0.1")], 200, None),
        ([("Origin", "https://localhost:9")], 200, "https://localhost:9"),
        ([("Origin", "tauri://x")], 200, "tauri://x"),
        ([("Origin", "null")], 403, None),
        ([("Origin", "http://mine.example")], 200, "http://mine.example"),
    ],
)
async def test_origins_are_judged_as_stock_does(
    headers: Headers, status: int, allowed: str | None
) -> None:
    async with FakeOllama(origins=("http://mine.example",)) as fake:
        reply = await ask(fake.port, "GET", "/api/version", headers=headers)

        assert (reply.status, reply.header("access-control-allow-origin")) == (status, allowed)


@pytest.mark.parametrize(
    "method, target, status, location, allow",
    [
        ("POST", "/api/chat/", 307, "/api/chat", None),
        ("GET", "/v1/models/?a=1", 301, "/v1/models?a=1", None),
        ("GET", "/api/../api/tags", 307, "/api/tags", None),
        ("PUT", "/api/tags", 405, None, "HEAD, GET"),
        ("PUT", f"/api/blobs/{ZEROS}", 405, None, "HEAD, POST"),
        ("OPTIONS", "/nope", 404, None, None),
        ("GET", "/v1/models/a%2Fb", 404, None, None),
        ("GET", "/API/tags", 404, None, None),
    ],
)
async def test_other_paths_get_the_answer_of_gin(
    method: str, target: str, status: int, location: str | None, allow: str | None
) -> None:
    async with FakeOllama() as fake:
        reply = await ask(fake.port, method, target)

        assert reply.status == status
        assert (reply.header("location"), reply.header("allow")) == (location, allow)


@pytest.mark.parametrize(
    "request_line, status",
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
    ],
)
async def test_requests_that_go_refuses_are_refused(request_line: bytes, status: int) -> None:
    async with FakeOllama() as fake:
        reply = await fetch(fake.port, request_line)

        assert (reply.status, reply.header("connection")) == (status, "close")


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with FakeOllama() as fake:
        reader, writer = await asyncio.open_connection("127.0.0.1", fake.port)
        writer.write(request_bytes("POST", "/v1/messages", b"{}") * 2)

        replies = [await read_reply(reader, "POST") for _ in range(2)]

        assert [reply.status for reply in replies] == [400, 400]
        assert fake.ledger.counts.connections_total == 1
        writer.close()


async def test_http_1_0_gets_a_body_that_ends_with_the_connection() -> None:
    async with FakeOllama() as fake:
        body = b'{"model":"tiny","prompt":"hi"}'
        head = b"POST /api/generate HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body)

        reply = await fetch(fake.port, head + body)

        assert (reply.framing, reply.header("connection")) == ("close", None)
        assert reply.body.count(b"\n") == 6


async def test_a_body_is_asked_for_only_when_it_is_wanted() -> None:
    async with FakeOllama() as fake:
        reader, writer = await asyncio.open_connection("127.0.0.1", fake.port)
        head = b"Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 16\r\n\r\n"
        writer.write(b"POST /api/show HTTP/1.1\r\n" + head)

        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(b'{"model":"tiny"}')
        reply = await read_reply(reader, "POST")
        unwanted = await fetch(fake.port, b"POST /nope HTTP/1.1\r\n" + head)

        assert (asked, reply.status) == (b"HTTP/1.1 100 Continue\r\n\r\n", 200)
        assert (unwanted.status, unwanted.header("connection")) == (404, "close")
        writer.close()


async def test_a_blob_that_is_there_is_answered_without_its_body() -> None:
    async with FakeOllama() as fake:
        weights = f"sha256:{fake.store.listed()[0].weights}"
        head = f"POST /api/blobs/{weights} HTTP/1.1\r\nHost: localhost\r\n"

        reply = await fetch(fake.port, f"{head}Content-Length: 9000000000\r\n\r\n".encode())

        assert (reply.status, reply.header("connection")) == (200, "close")
        assert fake.ledger.entries[0].body_size == 0


async def test_a_blob_and_the_model_made_of_it_are_there_afterwards() -> None:
    digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    create = json.dumps({"model": "new", "files": {"f.gguf": digest}}).encode()
    async with FakeOllama(models=[]) as fake:
        empty = await ask(fake.port, "GET", "/v1/models")
        chunked = [("Transfer-Encoding", "chunked")]
        uploaded = await ask(fake.port, "POST", f"/api/blobs/{digest}", b"test", chunked)

        made = await ask(fake.port, "POST", "/api/create", create)
        listed = await ask(fake.port, "GET", "/api/tags")

        assert (json.loads(empty.body)["data"], uploaded.status) == (None, 201)
        assert made.chunks[-1] == b'{"status":"success"}\n'
        assert json.loads(listed.body)["models"][0]["name"] == "new:latest"


async def test_pull_ends_with_success_or_with_an_error_line() -> None:
    async with FakeOllama(models=[], registry=("known",)) as fake:
        good = await ask(fake.port, "POST", "/api/pull", b'{"model":"known"}')
        bad = await ask(fake.port, "POST", "/api/pull", b'{"model":"nope"}')
        whole = await ask(fake.port, "POST", "/api/pull", b'{"model":"nope","stream":false}')
        shown = await ask(fake.port, "POST", "/api/show", b'{"model":"known"}')

        assert good.chunks[-1] == b'{"status":"success"}\n'
        assert bad.chunks[1] == b'{"error":"pull model manifest: file does not exist"}\n'
        assert (bad.status, whole.status, shown.status) == (200, 500, 200)


async def test_digests_come_from_the_name_unless_they_are_given() -> None:
    given = "ab" * 32
    async with FakeOllama(models=["x", f"y={given}"]) as one, FakeOllama(models=["x=2"]) as two:
        digests = {model.name: model.digest for model in one.store.listed()}

        assert digests["y:latest"] == given
        assert digests["x:latest"] != two.store.listed()[0].digest


async def test_a_stub_is_listed_with_its_host_and_not_run() -> None:
    spec = ModelSpec("far", remote_host="https://ollama.com:443", remote_model="big")
    async with FakeOllama(models=[spec]) as fake:
        listed = await ask(fake.port, "GET", "/api/tags")
        reply = await ask(fake.port, "POST", "/api/generate", b'{"model":"far","prompt":"a"}')

        assert json.loads(listed.body)["models"][0]["remote_host"] == "https://ollama.com:443"
        assert (reply.status, b"cannot run this remote" in reply.body) == (400, True)


async def test_usage_is_a_chunk_of_its_own_when_it_is_asked_for() -> None:
    body = b'{"model":"tiny","stream":true,"stream_options":{"include_usage":true},"prompt":"a",'
    async with FakeOllama() as fake:
        chat = await ask(
            fake.port, "POST", "/v1/chat/completions", body + b'"messages":[{"role":"user"}]}'
        )
        text = await ask(fake.port, "POST", "/v1/completions", body + b'"max_tokens":2}')

        assert b'"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5' in chat.chunks[-1]
        assert b'"usage":{"prompt_tokens":0,"completion_tokens":0' in text.chunks[0]
        assert b'"finish_reason":"length"' in text.chunks[-1]
