"""Anthropic's Python client, pointed at the sidecar's /v1/messages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.conftest import Fresh
from tests.clients.programs import HERE, THERE, Cluster, missing

try:
    import anthropic
except ImportError:
    missing("the package `anthropic` from PyPI")

from anthropic.types import MessageParam

MESSAGES: list[MessageParam] = [{"role": "user", "content": "hi"}]


def made_for(cluster: Cluster) -> anthropic.Anthropic:
    # Its own repeats would hide what the sidecar does.
    return anthropic.Anthropic(base_url=cluster.url, api_key="unused", max_retries=0)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[anthropic.Anthropic]:
    with made_for(cluster) as made:
        yield made


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text").strip()


def test_message_is_answered_whole_with_its_usage(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model="tiny", max_tokens=64, messages=MESSAGES)

    assert text_of(answer) == HERE
    assert (answer.role, answer.stop_reason) == ("assistant", "end_turn")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (7, 5)


def test_limit_of_tokens_is_kept(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(model="tiny", max_tokens=2, messages=MESSAGES)

    assert (text_of(answer), answer.stop_reason) == ("words of", "max_tokens")


def test_message_is_streamed_word_by_word(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="tiny", max_tokens=64, messages=MESSAGES) as stream:
        words = list(stream.text_stream)
        whole = stream.get_final_message()

    assert words == [f" {word}" for word in HERE.split()]
    assert (text_of(whole), whole.usage.output_tokens) == (HERE, 5)


def test_first_word_arrives_long_before_the_last_is_spoken(
    cluster: Cluster, client: anthropic.Anthropic
) -> None:
    cluster.local.script(model="tiny", token_delay=0.3)

    with client.messages.stream(model="tiny", max_tokens=64, messages=MESSAGES) as stream:
        first = next(iter(stream.text_stream))
        counts = cluster.local.counts()

    assert first == " words"
    assert (counts["running"], counts["generations_finished"]) == (1, 0)


async def test_asynchronous_client_gets_the_same(cluster: Cluster) -> None:
    url = cluster.url
    async with anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as client:
        whole = await client.messages.create(model="tiny", max_tokens=64, messages=MESSAGES)
        async with client.messages.stream(model="tiny", max_tokens=64, messages=MESSAGES) as stream:
            spoken = "".join([word async for word in stream.text_stream])

    assert text_of(whole) == spoken.strip() == HERE


def test_model_that_nobody_has_is_not_found_in_stock_s_own_words(
    client: anthropic.Anthropic,
) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        client.messages.create(model="nowhere", max_tokens=64, messages=MESSAGES)

    body = raised.value.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert body["error"] == {"type": "not_found_error", "message": "model 'nowhere' not found"}


def test_what_stock_refuses_is_a_bad_request(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="messages is required"):
        client.messages.create(model="tiny", max_tokens=64, messages=[])


def test_tokens_cannot_be_counted_as_with_stock(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        client.messages.count_tokens(model="tiny", messages=MESSAGES)

    assert raised.value.response.text == "404 page not found"


def test_client_that_stops_listening_frees_the_model(
    cluster: Cluster, client: anthropic.Anthropic
) -> None:
    cluster.local.speaks_slowly("tiny")

    with client.messages.stream(model="tiny", max_tokens=9999, messages=MESSAGES) as stream:
        next(iter(stream.text_stream))

    cluster.local.is_free_again()


def test_stream_of_an_engine_that_fails_just_ends_as_with_stock(
    cluster: Cluster, client: anthropic.Anthropic
) -> None:
    cluster.local.script(model="tiny", failure="engine-dies")

    with client.messages.stream(model="tiny", max_tokens=64, messages=MESSAGES) as stream:
        kinds = [event.type for event in stream]

    assert kinds.count("content_block_delta") == 3
    assert "message_stop" not in kinds


# ---------------------------------------------------------------- another node


def test_model_of_the_other_node_is_used_like_a_local_one(distributed: Cluster) -> None:
    with made_for(distributed) as client:
        whole = client.messages.create(model="far", max_tokens=64, messages=MESSAGES)
        with client.messages.stream(model="far", max_tokens=64, messages=MESSAGES) as stream:
            spoken = stream.get_final_text()

    assert text_of(whole) == spoken.strip() == THERE
    assert distributed.local.counts()["generations_started"] == 0


def test_node_that_dies_before_its_first_event_goes_unnoticed(fresh: Fresh) -> None:
    cluster = fresh("distributed", OLLAMA_WRAP_ROUTING="remote-first")
    cluster.node.dies("shared", after=0)

    with (
        made_for(cluster) as client,
        client.messages.stream(model="shared", max_tokens=64, messages=MESSAGES) as stream,
    ):
        spoken = stream.get_final_text()

    assert cluster.node.process.wait(10) == 1
    assert spoken.strip() == HERE


def test_node_that_dies_in_mid_stream_raises(fresh: Fresh) -> None:
    cluster = fresh("distributed")
    cluster.node.dies("far", after=3)
    got: list[str] = []

    with (
        made_for(cluster) as client,
        pytest.raises(anthropic.APIStatusError, match="stream interrupted"),
        client.messages.stream(model="far", max_tokens=999, messages=MESSAGES) as stream,
    ):
        got.extend(stream.text_stream)

    assert got == [" again"] * 3


def test_local_ollama_that_dies_in_mid_stream_is_a_broken_stream(fresh: Fresh) -> None:
    cluster = fresh("local")
    cluster.local.dies("tiny", after=3)
    got: list[str] = []

    with (
        made_for(cluster) as client,
        pytest.raises(Exception, match="incomplete chunked read"),
        client.messages.stream(model="tiny", max_tokens=999, messages=MESSAGES) as stream,
    ):
        got.extend(stream.text_stream)

    assert got == [" again"] * 3


def test_model_of_a_node_that_is_away_names_the_node(fresh: Fresh) -> None:
    cluster = fresh("distributed")
    cluster.node.stop()

    with made_for(cluster) as client, pytest.raises(anthropic.InternalServerError) as raised:
        client.messages.create(model="far", max_tokens=64, messages=MESSAGES)

    assert raised.value.status_code == 503
    assert "model 'far' is on b" in raised.value.message
