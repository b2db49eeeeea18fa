"""Ollama's own Python client sees one Ollama, whatever is behind the sidecar."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.conftest import Fresh
from tests.clients.programs import HERE, THERE, Cluster, cancelled, eventually, missing

try:
    import ollama
except ImportError:
    missing("the package `ollama` from PyPI")

MESSAGES = [{"role": "user", "content": "hi"}]


def said(part: ollama.GenerateResponse | ollama.ChatResponse) -> str:
    """Return the words of an answer or of a part of one."""
    if isinstance(part, ollama.ChatResponse):
        return part.message.content or ""
    return part.response or ""


@pytest.fixture
def client(cluster: Cluster) -> Iterator[ollama.Client]:
    with ollama.Client(host=cluster.url) as made:
        yield made


@pytest.fixture
def wide(distributed: Cluster) -> Iterator[ollama.Client]:
    """A client of the sidecar that knows another node."""
    with ollama.Client(host=distributed.url) as made:
        yield made


def test_generate_gives_the_whole_answer(client: ollama.Client) -> None:
    answer = client.generate("tiny", "hi")

    assert said(answer).strip() == HERE
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "stop", 5)


def test_generate_streams_a_part_for_each_token(client: ollama.Client) -> None:
    parts = list(client.generate("tiny", "hi", stream=True))

    assert [said(part) for part in parts] == [*(f" {word}" for word in HERE.split()), ""]
    assert [part.done for part in parts] == [False] * 5 + [True]


def test_first_token_arrives_long_before_the_last_is_spoken(
    cluster: Cluster, client: ollama.Client
) -> None:
    cluster.local.script(model="tiny", prompt_delay=0.2, token_delay=0.3)

    parts = client.generate("tiny", "hi", stream=True)
    first = next(iter(parts))
    counts = cluster.local.counts()
    rest = list(parts)

    assert said(first) == " words"
    assert (counts["running"], counts["generations_finished"]) == (1, 0)
    assert len(rest) == 5


def test_chat_answers_whole_and_as_a_stream(client: ollama.Client) -> None:
    whole = client.chat("tiny", MESSAGES)
    parts = list(client.chat("tiny", MESSAGES, stream=True))

    assert (whole.message.role, whole.message.content) == ("assistant", f" {HERE}")
    assert "".join(said(part) for part in parts).strip() == HERE
    assert parts[-1].done


async def test_asynchronous_client_gets_the_same(cluster: Cluster) -> None:
    async with ollama.AsyncClient(host=cluster.url) as client:
        whole = await client.generate("tiny", "hi")
        parts = [part async for part in await client.chat("tiny", MESSAGES, stream=True)]
        vectors = (await client.embed("tiny", ["hi", "you"])).embeddings
        listed = {model.model for model in (await client.list()).models}

    assert said(whole).strip() == HERE
    assert "".join(said(part) for part in parts).strip() == HERE
    assert len(vectors) == 2
    assert {"tiny:latest", "shared:latest"} <= listed


async def test_many_streams_at_once_are_not_mixed_up(cluster: Cluster) -> None:
    cluster.local.script(model="tiny", token_delay=0.01, say="tiny said this", times=0)
    cluster.local.script(model="shared", token_delay=0.01, say="and shared that", times=0)

    async with ollama.AsyncClient(host=cluster.url) as client:

        async def ask(model: str) -> str:
            parts = await client.generate(model, "hi", stream=True)
            return "".join([said(part) async for part in parts]).strip()

        spoken = await asyncio.gather(*(ask(model) for model in ["tiny", "shared"] * 4))

    # While the local one is busy, another node may answer for the shared model.
    assert spoken[::2] == ["tiny said this"] * 4
    assert set(spoken[1::2]) <= {"and shared that", THERE}


def test_embed_gives_a_vector_for_each_text(client: ollama.Client) -> None:
    answer = client.embed("tiny", ["hi", "you", "there"])
    legacy = client.embeddings("tiny", "hi")

    assert [len(vector) for vector in answer.embeddings] == [4, 4, 4]
    assert answer.prompt_eval_count == 9
    assert len(legacy.embedding) == 4


def test_list_names_every_model_with_its_digest(cluster: Cluster, client: ollama.Client) -> None:
    listed = {model.model: model.digest for model in client.list().models}

    assert {"tiny:latest", "shared:latest"} <= set(listed)
    assert ("far:latest" in listed) == cluster.distributed
    assert all(len(digest or "") == 64 for digest in listed.values())


def test_model_is_in_ps_from_its_load_to_its_unload(client: ollama.Client) -> None:
    client.generate("tiny", "", keep_alive="5m")
    loaded = {model.model for model in client.ps().models}

    stopped = client.generate("tiny", "", keep_alive=0)

    assert "tiny:latest" in loaded
    assert stopped.done_reason == "unload"
    assert "tiny:latest" not in {model.model for model in client.ps().models}


def test_show_tells_of_a_model(client: ollama.Client) -> None:
    shown = client.show("tiny")

    assert shown.capabilities == ["completion"]
    assert shown.details is not None
    assert (shown.details.family, shown.details.format) == ("llama", "gguf")
    assert shown.modelinfo is not None
    assert shown.modelinfo["llama.context_length"] == 2048


def test_pull_reports_its_progress_to_the_end(cluster: Cluster, client: ollama.Client) -> None:
    parts = list(client.pull("pulled", stream=True))

    counted = [part.completed for part in parts if part.completed]
    assert [parts[0].status, parts[-1].status] == ["pulling manifest", "success"]
    assert counted == sorted(counted)
    assert counted[-1] == next(part.total for part in parts if part.total)
    assert "pulled:latest" in {model.model for model in client.list().models}
    client.delete("pulled")


def test_push_reports_its_progress_to_the_end(client: ollama.Client) -> None:
    parts = list(client.push("tiny", stream=True))

    assert [parts[0].status, parts[-1].status] == ["retrieving manifest", "success"]


def test_model_is_created_copied_used_and_deleted(client: ollama.Client) -> None:
    created = client.create("mine", from_="tiny", system="Be brief.")
    copied = client.copy("mine", "yours")
    shown = client.show("yours")
    words = said(client.generate("yours", "hi")).strip()
    deleted = [client.delete("mine"), client.delete("yours")]

    assert isinstance(created, ollama.ProgressResponse)
    assert created.status == "success"
    assert 'SYSTEM "Be brief."' in (shown.modelfile or "")
    assert words == HERE
    assert [copied.status, *(one.status for one in deleted)] == ["success"] * 3
    assert not {"mine:latest", "yours:latest"} & {one.model for one in client.list().models}


def test_blob_is_uploaded_as_it_is_on_the_disk(
    cluster: Cluster, client: ollama.Client, tmp_path: Path
) -> None:
    content = f"{cluster.mode} weights ".encode() * 200_000
    (tmp_path / "weights.gguf").write_bytes(content)

    digest = client.create_blob(tmp_path / "weights.gguf")
    client.create("uploaded", files={"weights.gguf": digest})
    client.delete("uploaded")

    seen = cluster.local.saw(f"/api/blobs/{digest}")[-1]
    assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert (seen["method"], seen["body_size"]) == ("POST", len(content))
    assert seen["body_sha256"] == digest.removeprefix("sha256:")


def test_model_that_nobody_has_raises_stock_s_own_words(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as whole:
        client.generate("nowhere", "hi")
    with pytest.raises(ollama.ResponseError) as streamed:
        list(client.generate("nowhere", "hi", stream=True))

    for raised in (whole.value, streamed.value):
        assert (raised.status_code, raised.error) == (404, "model 'nowhere' not found")


def test_what_stock_refuses_raises_with_stock_s_status_and_text(client: ollama.Client) -> None:
    tool = {"type": "function", "function": {"name": "look", "description": "looks"}}
    with pytest.raises(ollama.ResponseError) as no_tools:
        client.chat("tiny", MESSAGES, tools=[tool])
    with pytest.raises(ollama.ResponseError) as bad_option:
        client.generate("tiny", "hi", keep_alive="soon")
    with pytest.raises(ollama.ResponseError) as no_manifest:
        list(client.pull("never-published", stream=True))

    assert no_tools.value.status_code == 400
    assert no_tools.value.error.endswith("does not support tools")
    assert (bad_option.value.status_code, bad_option.value.error) == (
        400,
        'time: invalid duration "soon"',
    )
    assert "pull model manifest" in no_manifest.value.error


def test_engine_that_fails_in_mid_stream_raises_its_own_words(
    cluster: Cluster, client: ollama.Client
) -> None:
    cluster.local.script(model="tiny", failure="engine-dies")
    got: list[str] = []

    with pytest.raises(ollama.ResponseError) as raised:
        got.extend(said(part) for part in client.generate("tiny", "hi", stream=True))

    assert len(got) == 3
    assert raised.value.error.endswith("unexpected EOF")


def test_client_that_stops_listening_frees_the_model(
    cluster: Cluster, client: ollama.Client
) -> None:
    cluster.local.speaks_slowly("tiny")
    parts = client.generate("tiny", "hi", stream=True)
    next(iter(parts))

    parts.close()  # type: ignore[attr-defined]

    cluster.local.is_free_again()


async def test_cancelled_task_frees_the_model_before_the_first_token(cluster: Cluster) -> None:
    cluster.local.script(model="tiny", prompt_delay=30)
    async with ollama.AsyncClient(host=cluster.url) as client:
        await cancelled(cluster.local, client.generate("tiny", "hi"))


# ---------------------------------------------------------------- another node


def test_model_of_the_other_node_is_used_like_a_local_one(
    distributed: Cluster, wide: ollama.Client
) -> None:
    words = said(wide.generate("far", "hi")).strip()
    parts = list(wide.chat("far", MESSAGES, stream=True))
    vectors = wide.embed("far", ["hi", "you"]).embeddings
    shown = wide.show("far")

    assert words == "".join(said(part) for part in parts).strip() == THERE
    assert len(vectors) == 2
    assert shown.capabilities == ["completion"]
    assert distributed.local.counts()["generations_started"] == 0


def test_client_that_stops_listening_frees_the_other_node(
    distributed: Cluster, wide: ollama.Client
) -> None:
    distributed.node.speaks_slowly("far")
    parts = wide.generate("far", "hi", stream=True)
    next(iter(parts))

    parts.close()  # type: ignore[attr-defined]

    distributed.node.is_free_again()


def test_model_of_the_other_node_is_copied_and_deleted_there(
    distributed: Cluster, wide: ollama.Client
) -> None:
    wide.copy("far", "farther")
    words = said(wide.generate("farther", "hi")).strip()

    wide.delete("farther")

    assert words == THERE
    assert len(distributed.node.saw("/api/delete")) == 1
    assert distributed.local.saw("/api/delete") == []


def test_model_loaded_on_the_other_node_is_in_ps_until_it_is_stopped(
    wide: ollama.Client,
) -> None:
    # Stock lists weights once, under the name that loaded them: nothing else may have them.
    wide.generate("far", "", keep_alive=0)
    wide.generate("far", "", keep_alive="5m")
    eventually(lambda: "far:latest" in {model.model for model in wide.ps().models})

    stopped = wide.generate("far", "", keep_alive=0)

    assert stopped.done_reason == "unload"
    eventually(lambda: "far:latest" not in {model.model for model in wide.ps().models})


# ---------------------------------------------------------------- deaths


def test_node_that_dies_before_its_first_token_goes_unnoticed(fresh: Fresh) -> None:
    cluster = fresh("distributed", OLLAMA_WRAP_ROUTING="remote-first")
    cluster.node.dies("shared", after=0)

    with ollama.Client(host=cluster.url) as client:
        words = "".join(said(part) for part in client.generate("shared", "hi", stream=True))

    assert cluster.node.process.wait(10) == 1
    assert words.strip() == HERE


def test_node_that_dies_in_mid_stream_raises(fresh: Fresh) -> None:
    cluster = fresh("distributed")
    cluster.node.dies("far", after=3)
    got: list[str] = []

    with (
        ollama.Client(host=cluster.url) as client,
        pytest.raises(ollama.ResponseError, match="stream interrupted"),
    ):
        got.extend(said(part) for part in client.generate("far", "hi", stream=True))

    assert got == [" again"] * 3


def test_local_ollama_that_dies_in_mid_stream_is_a_broken_stream(fresh: Fresh) -> None:
    cluster = fresh("local")
    cluster.local.dies("tiny", after=3)
    got: list[str] = []

    with (
        ollama.Client(host=cluster.url) as client,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        got.extend(said(part) for part in client.generate("tiny", "hi", stream=True))

    assert got == [" again"] * 3


def test_model_of_a_node_that_is_away_is_not_called_unknown(fresh: Fresh) -> None:
    cluster = fresh("distributed")
    cluster.node.stop()

    with ollama.Client(host=cluster.url) as client:
        with pytest.raises(ollama.ResponseError, match="'far' is on b") as used:
            client.generate("far", "hi")
        with pytest.raises(ollama.ResponseError, match="'far' is on b") as shown:
            client.show("far")

    assert [used.value.status_code, shown.value.status_code] == [503, 503]


def test_model_of_a_node_that_is_away_is_not_called_unknown_later(fresh: Fresh) -> None:
    cluster = fresh("distributed")
    cluster.node.stop()
    eventually(lambda: mode_of(cluster) == "standalone")

    # A 404 here makes the `ollama` command download what the other machine has.
    with ollama.Client(host=cluster.url) as client:
        with pytest.raises(ollama.ResponseError, match="'far' is on b") as used:
            client.generate("far", "hi")
        with pytest.raises(ollama.ResponseError, match="'far' is on b") as shown:
            client.show("far")

    assert [used.value.status_code, shown.value.status_code] == [503, 503]


def mode_of(cluster: Cluster) -> str:
    return httpx.get(f"{cluster.url}/api/version").headers["X-Ollama-Mode"]
