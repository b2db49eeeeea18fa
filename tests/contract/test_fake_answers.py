"""The fake Ollama's rarer answers: refusals, management, embeddings, agents, keep-alive."""

import json
from datetime import UTC, datetime

import pytest

from ollama_wrap.testing import FakeOllama, ModelSpec
from tests.fakes.raw_http import RawReply, ask

_ASK = [{"role": "user", "content": "hi"}]
_FULL = "registry.ollama.ai/library/tiny:latest"


async def post(fake: FakeOllama, target: str, **body: object) -> RawReply:
    return await ask(fake.port, "POST", target, json.dumps(body).encode())


@pytest.mark.parametrize(
    "target, body, status, text",
    [
        ("/api/chat", {"model": "tiny", "messages": _ASK, "think": True}, 400, "support thinking"),
        ("/api/chat", {"model": "tiny", "messages": _ASK, "tools": [{}]}, 400, f"{_FULL} does not"),
        ("/api/generate", {"model": "tiny", "prompt": "a", "suffix": "b"}, 400, "support insert"),
        ("/api/generate", {"model": "only", "prompt": "a"}, 400, '"only" does not support gen'),
        ("/api/generate", {"model": "tiny", "options": {"stop": 1}}, 500, "be of type array"),
        ("/api/generate", {"model": "tiny", "keep_alive": True}, 400, "Unsupported type: 'bool'"),
        ("/api/generate", {"model": "tiny", "keep_alive": "5"}, 400, "missing unit in duration"),
        ("/api/generate", {"model": "tiny", "stream": "no"}, 400, "of type bool"),
        ("/api/embed", {"input": "a"}, 404, "model '' not found"),
        ("/api/embeddings", {"prompt": "a"}, 400, "model is required"),
        ("/api/embeddings", {"model": "TINY", "prompt": "a"}, 404, "try pulling it first"),
        ("/api/show", {"model": ""}, 400, "model is required"),
        ("/api/show", {"model": "a b"}, 400, "invalid model name"),
        ("/api/push", {}, 400, "model is required"),
        ("/api/copy", {"source": "a b", "destination": "c"}, 400, 'source "a b" is invalid'),
        ("/api/create", {"model": "x", "files": {"/etc/x": "d"}}, 400, "path must be relative"),
        ("/api/blobs/sha256:12", {}, 400, "invalid digest format"),
        ("/api/me", {}, 401, "unauthorized"),
        ("/v1/chat/completions", {"messages": _ASK}, 400, "model is required"),
        ("/v1/chat/completions", {"model": "a:cloud", "messages": _ASK}, 401, "unauthorized"),
        ("/v1/chat/completions", {"model": "only", "messages": _ASK}, 400, "not support chat"),
        ("/v1/completions", {"prompt": "a"}, 404, "model '' not found"),
        ("/v1/embeddings", {"model": "tiny"}, 400, "invalid input"),
        ("/v1/responses", {"input": "a"}, 400, "model is required"),
        ("/v1/messages", {"messages": _ASK}, 400, "model is required"),
        ("/v1/messages", {"model": "tiny", "max_tokens": 0}, 400, "must be positive"),
        ("/v1/messages", {"model": "tiny", "max_tokens": 9}, 400, "messages is required"),
        ("/v1/audio/transcriptions", {}, 400, "model is required"),
    ],
)
async def test_refusals_have_the_words_of_stock(
    target: str, body: dict[str, object], status: int, text: str
) -> None:
    only = ModelSpec("only", capabilities=("embedding",))
    async with FakeOllama(models=["tiny", only]) as fake:
        reply = await post(fake, target, **body)

        error = json.loads(reply.body)["error"]
        assert reply.status == status
        assert text in (error["message"] if isinstance(error, dict) else error)


@pytest.mark.parametrize(
    "target, shown",
    [
        ("/api/status", '{"cloud":{"disabled":false,"source":"none"}}'),
        ("/api/experimental/model-recommendations", '{"recommendations":[]}'),
    ],
)
async def test_facts_of_its_own_are_those_of_stock(target: str, shown: str) -> None:
    async with FakeOllama() as fake:
        assert (await ask(fake.port, "GET", target)).body.decode() == shown


async def test_signout_is_answered_with_null() -> None:
    async with FakeOllama() as fake:
        assert (await post(fake, "/api/signout")).body == b"null"


async def test_embeddings_come_one_an_input_and_in_base64() -> None:
    async with FakeOllama() as fake:
        many = await post(fake, "/api/embed", model="tiny", input=["a", "b"])
        none = await post(fake, "/api/embed", model="tiny", input="")
        packed = await post(
            fake, "/v1/embeddings", model="tiny", input=["a"], encoding_format="base64"
        )
        fake.on(failure="engine-dies-first")
        broken = await post(fake, "/api/embed", model="tiny", input="a")

        assert len(json.loads(many.body)["embeddings"]) == 2
        assert json.loads(none.body) == {"model": "tiny", "embeddings": []}
        assert json.loads(packed.body)["data"][0]["embedding"].endswith("Pw==")
        assert broken.status == 500


async def test_an_engine_failure_is_a_plain_error_where_no_stream_was_asked_for() -> None:
    async with FakeOllama() as fake:
        fake.on(failure="engine-dies", after_tokens=2)

        reply = await post(fake, "/v1/chat/completions", model="tiny", messages=_ASK)

        assert (reply.status, reply.framing) == (500, "length")
        assert json.loads(reply.body)["error"]["type"] == "api_error"


async def test_responses_can_be_whole() -> None:
    async with FakeOllama() as fake:
        reply = json.loads((await post(fake, "/v1/responses", model="tiny", input="hi")).body)

        assert reply["output"][0]["content"][0]["text"] == " t0 t1 t2 t3 t4"
        assert (reply["status"], reply["usage"]["total_tokens"]) == ("completed", 12)


async def test_a_stream_that_is_refused_has_its_headers_on_the_agents_routes() -> None:
    async with FakeOllama() as fake:
        reply = await post(
            fake, "/v1/messages", model="x", max_tokens=1, stream=True, messages=_ASK
        )

        assert (reply.status, reply.header("cache-control")) == (404, "no-cache")


async def test_push_ends_with_success_or_with_the_missing_file() -> None:
    async with FakeOllama() as fake:
        good = await post(fake, "/api/push", model="tiny")
        bad = await post(fake, "/api/push", model="nope")
        last = await post(fake, "/api/push", model="tiny", stream=False)

        assert good.chunks[-1] == b'{"status":"success"}\n'
        assert b"library/nope/latest: no such file" in bad.chunks[2]
        assert json.loads(last.body) == {"status": "success"}


async def test_create_pulls_a_base_that_is_spelled_otherwise() -> None:
    async with FakeOllama(registry=("*",)) as fake:
        pulled = await post(fake, "/api/create", model="new", **{"from": "other"})
        missing = await post(fake, "/api/create", model="new", files={"a": "sha256:00"})

        assert pulled.chunks[0] == b'{"status":"pulling manifest"}\n'
        assert pulled.chunks[-1] == b'{"status":"success"}\n'
        assert b"blobs/sha256-00: no such file" in missing.body


async def test_equal_inputs_make_equal_digests_on_two_nodes() -> None:
    async with FakeOllama() as one, FakeOllama() as two:
        for fake in (one, two):
            await post(fake, "/api/create", model="new", system="be brief", **{"from": "tiny"})
            await post(fake, "/api/copy", source="new", destination="newer")

        digests = {m.digest for fake in (one, two) for m in fake.store.listed() if "new" in m.name}
        assert len(digests) == 1
        shown = await post(one, "/api/show", model="newer")
        assert b'SYSTEM \\"be brief\\"' in shown.body


async def test_keep_alive_belongs_to_the_runner_and_negative_is_forever() -> None:
    async with FakeOllama() as fake:
        await post(fake, "/api/generate", model="tiny", keep_alive="-1m")
        forever = json.loads((await ask(fake.port, "GET", "/api/ps")).body)
        await post(fake, "/api/generate", model="tiny", keep_alive="1m30s")
        bounded = json.loads((await ask(fake.port, "GET", "/api/ps")).body)

        until = datetime.fromisoformat(bounded["models"][0]["expires_at"][:19] + "+00:00")
        assert forever["models"][0]["expires_at"] > "2300"
        assert 80 < (until - datetime.now(UTC)).total_seconds() < 91


async def test_a_model_goes_when_its_keep_alive_has_passed() -> None:
    async with FakeOllama() as fake:
        await post(fake, "/api/generate", model="tiny", keep_alive=0.01)

        await fake.ledger.until(lambda ledger: ledger.counts.unloads == 1)
        assert json.loads((await ask(fake.port, "GET", "/api/ps")).body) == {"models": []}


async def test_one_model_more_than_fits_sends_an_idle_one_away() -> None:
    async with FakeOllama(models=["a", "b"], max_loaded=1) as fake:
        for name in ("a", "b"):
            await post(fake, "/api/generate", model=name)

        loaded = json.loads((await ask(fake.port, "GET", "/api/ps")).body)["models"]
        assert [row["name"] for row in loaded] == ["b:latest"]
        assert fake.ledger.counts.unloads == 1


async def test_control_adds_models_and_forgets_the_past() -> None:
    async with FakeOllama(models=[]) as fake:
        await post(fake, "/api/show", model="x")
        added = await ask(fake.port, "POST", "/_fake/models", b'["x", "y=digest"]')
        await ask(fake.port, "POST", "/_fake/script", b'{"route": "/api/tags", "status": 500}')
        before = json.loads((await ask(fake.port, "GET", "/_fake/ledger")).body)
        await ask(fake.port, "POST", "/_fake/reset")
        after = json.loads((await ask(fake.port, "GET", "/_fake/ledger")).body)
        unknown = await ask(fake.port, "GET", "/_fake/nope")

        assert json.loads(added.body) == {"added": 2}
        assert (len(before["entries"]), len(after["entries"]), unknown.status) == (1, 0, 404)
        assert (await ask(fake.port, "GET", "/api/tags")).status == 200
