"""OpenAI's Python client, pointed at the sidecar's /v1."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.conftest import Fresh
from tests.clients.programs import HERE, THERE, Cluster, cancelled, missing

try:
    import openai
except ImportError:
    missing("the package `openai` from PyPI")

from openai.types.chat import ChatCompletionMessageParam

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]


def made_for(cluster: Cluster) -> openai.OpenAI:
    # Its own repeats would hide what the sidecar does.
    return openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="unused", max_retries=0)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[openai.OpenAI]:
    with made_for(cluster) as made:
        yield made


@pytest.fixture
def wide(distributed: Cluster) -> Iterator[openai.OpenAI]:
    """A client of the sidecar that knows another node."""
    with made_for(distributed) as made:
        yield made


def test_chat_gives_the_whole_answer_with_its_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES)

    assert (answer.choices[0].message.content or "").strip() == HERE
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 12)


def test_chat_streams_a_chunk_for_each_token_and_its_usage_last(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)

    spoken = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert [word for word in spoken if word] == [f" {word}" for word in HERE.split()]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


def test_first_chunk_arrives_long_before_the_last_is_spoken(
    cluster: Cluster, client: openai.OpenAI
) -> None:
    cluster.local.script(model="tiny", token_delay=0.3)

    with client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True) as stream:
        first = next(stream)
        counts = cluster.local.counts()

    assert first.choices[0].delta.content == " words"
    assert (counts["running"], counts["generations_finished"]) == (1, 0)


async def test_asynchronous_client_gets_the_same(cluster: Cluster) -> None:
    url = f"{cluster.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        whole = await client.chat.completions.create(model="tiny", messages=MESSAGES)
        stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        async with stream:
            chunks = [chunk async for chunk in stream]

    spoken = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert (whole.choices[0].message.content or "").strip() == spoken.strip() == HERE


def test_completions_answer_whole_and_as_a_stream(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="tiny", prompt="hi")
    with client.completions.create(model="tiny", prompt="hi", stream=True) as stream:
        spoken = "".join(chunk.choices[0].text for chunk in stream)

    assert whole.choices[0].text.strip() == spoken.strip() == HERE


@pytest.mark.parametrize("form", ["float", "base64"])
def test_embeddings_give_a_vector_for_each_text(client: openai.OpenAI, form: str) -> None:
    more = {"encoding_format": form}
    answer = client.embeddings.create(model="tiny", input=["hi", "you"], extra_body=more)

    assert [row.index for row in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens == 6


def test_embeddings_are_read_as_the_client_asks_for_them(client: openai.OpenAI) -> None:
    # Without a wish of the caller this client asks for base64 and unpacks it.
    answer = client.embeddings.create(model="tiny", input="hi")

    assert [round(number, 4) for number in answer.data[0].embedding] == [
        0.1826,
        0.3651,
        0.5477,
        0.7303,
    ]


def test_models_are_listed_and_told_of_one_by_one(cluster: Cluster, client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}
    one = client.models.retrieve("tiny")

    assert {"tiny:latest", "shared:latest"} <= listed
    assert ("far:latest" in listed) == cluster.distributed
    assert (one.id, one.object, one.owned_by) == ("tiny", "model", "library")


def test_responses_answer_whole_and_as_events(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="tiny", input="hi")
    with client.responses.create(model="tiny", input="hi", stream=True) as stream:
        events = list(stream)

    spoken = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert whole.output_text.strip() == "".join(spoken).strip() == HERE
    assert [event.type for event in (events[0], events[-1])] == [
        "response.created",
        "response.completed",
    ]


def test_recording_is_sent_as_a_form(cluster: Cluster, client: openai.OpenAI) -> None:
    sound = ("hi.wav", b"RIFF" + bytes(2000), "audio/wav")

    written = client.audio.transcriptions.create(model="tiny", file=sound)

    assert written.text == HERE
    seen = cluster.local.saw("/v1/audio/transcriptions")
    assert [request["model"] for request in seen] == ["tiny"]


def test_model_that_nobody_has_is_not_found_in_stock_s_own_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="nowhere", messages=MESSAGES)

    assert raised.value.status_code == 404
    assert raised.value.type == "not_found_error"
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["message"] == "model 'nowhere' not found"


def test_what_stock_refuses_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as empty:
        client.chat.completions.create(model="tiny", messages=[])
    with pytest.raises(openai.NotFoundError) as unknown:
        client.get("/nothing/here", cast_to=object)

    assert "too short" in empty.value.message
    assert unknown.value.response.text == "404 page not found"


def test_prompt_that_is_too_long_is_refused_in_stock_s_own_words(
    cluster: Cluster, client: openai.OpenAI
) -> None:
    cluster.local.script(model="tiny", failure="prompt-too-long")

    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="tiny", messages=MESSAGES)

    assert "exceeds the available context size" in raised.value.message


def test_engine_that_fails_in_mid_stream_raises_where_nodes_are_known(
    distributed: Cluster, wide: openai.OpenAI
) -> None:
    distributed.local.script(model="tiny", failure="engine-dies")

    with (
        pytest.raises(openai.APIError, match="stream interrupted"),
        wide.chat.completions.create(model="tiny", messages=MESSAGES, stream=True) as stream,
    ):
        list(stream)


def test_client_that_stops_listening_frees_the_model(
    cluster: Cluster, client: openai.OpenAI
) -> None:
    cluster.local.speaks_slowly("tiny")

    with client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True) as stream:
        next(stream)

    cluster.local.is_free_again()


async def test_cancelled_task_frees_the_model_before_the_first_token(cluster: Cluster) -> None:
    cluster.local.script(model="tiny", prompt_delay=30)
    url = f"{cluster.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as client:
        asked = client.chat.completions.create(model="tiny", messages=MESSAGES)
        await cancelled(cluster.local, asked)


# ---------------------------------------------------------------- another node


def test_model_of_the_other_node_is_used_like_a_local_one(
    distributed: Cluster, wide: openai.OpenAI
) -> None:
    answer = wide.chat.completions.create(model="far", messages=MESSAGES)
    text = wide.completions.create(model="far", prompt="hi").choices[0].text
    vectors = wide.embeddings.create(model="far", input=["hi", "you"]).data
    response = wide.responses.create(model="far", input="hi").output_text
    one = wide.models.retrieve("far")

    said = [answer.choices[0].message.content or "", text, response]
    assert [words.strip() for words in said] == [THERE] * 3
    assert (len(vectors), one.id) == (2, "far")
    assert distributed.local.counts()["generations_started"] == 0


def test_key_of_the_client_is_not_carried_to_the_other_node(
    distributed: Cluster, wide: openai.OpenAI
) -> None:
    wide.chat.completions.create(model="far", messages=MESSAGES)

    seen = distributed.node.saw("/v1/chat/completions")[-1]
    assert "authorization" not in names_of_headers(seen)


def names_of_headers(entry: dict[str, object]) -> set[str]:
    pairs = entry["headers"]
    assert isinstance(pairs, list)
    return {name.lower() for name, _ in pairs}


# ---------------------------------------------------------------- deaths


def test_node_that_dies_before_its_first_chunk_goes_unnoticed(fresh: Fresh) -> None:
    cluster = fresh("distributed", OLLAMA_WRAP_ROUTING="remote-first")
    cluster.node.dies("shared", after=0)

    with (
        made_for(cluster) as client,
        client.chat.completions.create(model="shared", messages=MESSAGES, stream=True) as stream,
    ):
        spoken = "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert cluster.node.process.wait(10) == 1
    assert spoken.strip() == HERE


@pytest.mark.parametrize("route", ["chat", "completions", "responses"])
def test_node_that_dies_in_mid_stream_raises(fresh: Fresh, route: str) -> None:
    cluster = fresh("distributed")
    cluster.node.dies("far", after=3)
    got: list[object] = []

    with made_for(cluster) as client, pytest.raises(openai.APIError, match="stream interrupted"):
        got.extend(streamed(client, route))

    assert len(got) >= 3


def streamed(client: openai.OpenAI, route: str) -> Iterator[object]:
    if route == "chat":
        with client.chat.completions.create(model="far", messages=MESSAGES, stream=True) as chunks:
            yield from chunks
    elif route == "completions":
        with client.completions.create(model="far", prompt="hi", stream=True) as texts:
            yield from texts
    else:
        with client.responses.create(model="far", input="hi", stream=True) as events:
            yield from events


def test_local_ollama_that_dies_in_mid_stream_is_a_broken_stream(fresh: Fresh) -> None:
    cluster = fresh("local")
    cluster.local.dies("tiny", after=3)
    got: list[str | None] = []

    with (
        made_for(cluster) as client,
        client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True) as stream,
        pytest.raises(Exception, match=r"incomplete chunked read|Connection error"),
    ):
        got.extend(chunk.choices[0].delta.content for chunk in stream)

    assert got == [" again"] * 3


def test_model_of_a_node_that_is_away_names_the_node(fresh: Fresh) -> None:
    cluster = fresh("distributed")
    cluster.node.stop()

    with made_for(cluster) as client, pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="far", messages=MESSAGES)

    assert raised.value.status_code == 503
    assert "model 'far' is on b" in raised.value.message
