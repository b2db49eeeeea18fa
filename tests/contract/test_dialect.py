"""Every dialect against what a real Ollama was recorded to say."""

import json
from pathlib import Path
from typing import Any

import pytest

from ollama_wrap.call import Header, Kind
from ollama_wrap.dialects import DIALECTS, Ending, Route, read, route
from ollama_wrap.dialects.lists import Entry, models, ps, read_models, read_ps, read_tags, tags

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
VERSIONS = ("v0.24.0", "v0.33.0")
FILES = (*VERSIONS, "failures-v0.33.0")

Recorded = dict[str, Any]


def recorded(file: str) -> list[Recorded]:
    entries: list[Recorded] = json.loads((RECORDINGS / f"{file}.json").read_text())
    return [{**entry, "file": file} for entry in entries]


EVERYTHING = [one for file in FILES for one in recorded(file)]


def name_of(exchange: Recorded) -> str:
    return f"{exchange['file']}: {exchange['name']}"


def asked(exchange: Recorded) -> tuple[Route, bytes, list[Header]]:
    request = exchange["request"]
    headers = [
        (name.encode(), value.encode("latin-1")) for name, value in request.get("headers", [])
    ]
    path = request["target"].partition("?")[0]
    return route(request["method"], path), (request.get("body") or "").encode("latin-1"), headers


def answer(exchange: Recorded) -> bytes:
    return (exchange["reply"].get("body") or "").encode("latin-1")


def content_type(exchange: Recorded) -> str:
    headers = exchange["reply"]["headers"]
    return next((value for name, value in headers if name.lower() == "content-type"), "")


def named(file: str, name: str) -> Recorded:
    return next(one for one in recorded(file) if one["name"] == name)


# One recorded body is only the beginning of a long one.
INFERRED = [
    one
    for one in EVERYTHING
    if asked(one)[0].kind is Kind.INFER
    and one["reply"]["status"] == 200
    and one["name"] != "generate-chunked-body"
]
FAILED = [
    one
    for one in EVERYTHING
    if one["reply"]["status"] in (400, 404, 500, 503)
    and one["request"]["method"] != "HEAD"
    and "json" in content_type(one)
]


@pytest.mark.parametrize("exchange", EVERYTHING, ids=name_of)
def test_what_stock_does_not_route_is_other(exchange: Recorded) -> None:
    found, _, _ = asked(exchange)

    refused = (
        exchange["reply"]["status"] in (301, 307, 405) or content_type(exchange) == "text/plain"
    )
    served = exchange["request"]["method"] != "OPTIONS" and not refused
    assert (found.operation != "other") is served


@pytest.mark.parametrize("exchange", INFERRED, ids=name_of)
def test_model_and_stream_are_read_from_what_stock_answered(exchange: Recorded) -> None:
    found, body, headers = asked(exchange)

    reading = read(found, body, headers)

    assert reading is not None
    assert reading.model is not None
    assert reading.model.endswith(("tiny", "tiny:latest"))
    text = answer(exchange)
    assert reading.load is (b'"done_reason":"load"' in text)
    if not reading.load and found.operation != "transcriptions":
        streamed = content_type(exchange) in ("application/x-ndjson", "text/event-stream")
        assert reading.stream is streamed


@pytest.mark.parametrize("exchange", INFERRED, ids=name_of)
def test_end_of_an_answer_says_how_it_ended(exchange: Recorded) -> None:
    found, _, _ = asked(exchange)
    text = answer(exchange)
    streamed = content_type(exchange) in ("application/x-ndjson", "text/event-stream")

    ending = DIALECTS[found.dialect].ending(found.operation, streamed, text[-16_384:])

    broken = "mid-stream" in exchange["name"]
    # Streams of two routes just stop: that is neither an end nor a failure.
    silent = found.operation in ("messages", "responses")
    assert ending.done is not broken
    assert ending.failed is (broken and not silent)


@pytest.mark.parametrize("exchange", INFERRED, ids=name_of)
def test_answer_that_is_cut_has_no_end(exchange: Recorded) -> None:
    found, _, _ = asked(exchange)
    streamed = content_type(exchange) in ("application/x-ndjson", "text/event-stream")
    if found.operation == "transcriptions":
        pytest.skip("a transcription may be bare text")

    cut = answer(exchange).rstrip()[:-3]

    assert not DIALECTS[found.dialect].ending(found.operation, streamed, cut).done


@pytest.mark.parametrize(
    "name,prompt,tokens",
    [
        ("generate-stream", 7, 5),
        ("generate-whole", 7, 5),
        ("chat-stream", 7, 5),
        ("embed", 3, None),
        ("embeddings-legacy", None, None),
        ("v1-chat", 7, 5),
        ("v1-chat-stream", None, None),
        ("v1-embeddings", 3, None),
        ("v1-responses-stream", 7, 5),
        ("v1-messages", 7, 5),
        ("v1-messages-stream", 7, 5),
        ("generate-load", None, None),
    ],
)
def test_tokens_are_what_stock_counted(name: str, prompt: int | None, tokens: int | None) -> None:
    exchange = named("v0.33.0", name)
    found, _, _ = asked(exchange)
    streamed = "stream" in name

    ending = DIALECTS[found.dialect].ending(found.operation, streamed, answer(exchange))

    assert ending == Ending(True, failed=False, prompt_tokens=prompt, tokens=tokens)


@pytest.mark.parametrize("exchange", FAILED, ids=name_of)
def test_our_errors_have_the_form_of_stock(exchange: Recorded) -> None:
    found, _, _ = asked(exchange)
    theirs = answer(exchange)
    said = json.loads(theirs)
    text = said["error"] if isinstance(said["error"], str) else said["error"]["message"]
    reply = exchange["reply"]

    headers, body = DIALECTS[found.dialect].error(
        reply["status"], text, said.get("request_id", "id")
    )

    # A refusal before the compatible writer is in place lacks its line end.
    assert body.rstrip() == theirs.rstrip()
    if theirs.endswith(b"\n") or found.kind is Kind.FOLLOW:
        assert headers == [(b"Content-Type", content_type(exchange).encode())]
        assert body == theirs


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("tail", [b"", b"data: {}\n\n", b"{}\n", b'{"respon'])
def test_marker_of_a_broken_stream_can_be_read_and_is_no_end(name: str, tail: bytes) -> None:
    dialect = DIALECTS[name]

    marker = dialect.marker("node-down", 'id"<1>', tail)

    said = json.loads(marker.strip().rpartition(b"data: ")[2])
    assert "stream interrupted: node-down" in json.dumps(said)
    assert marker.endswith(b"\n" if name == "ollama" else b"\n\n")
    operation = {"ollama": "chat", "openai": "chat-completions", "anthropic": "messages"}[name]
    ending = dialect.ending(operation, True, tail + marker)
    assert (ending.done, ending.failed) == (False, True)


@pytest.mark.parametrize("version", VERSIONS)
def test_lists_of_stock_are_read(version: str) -> None:
    listed = read_tags(answer(named(version, "tags")))
    loaded = read_ps(answer(named(version, "ps")))

    assert [(one.name, len(one.digest), one.size > 0, one.remote) for one in listed] == [
        ("tiny:latest", 64, True, False)
    ]
    # The older one was asked before it had loaded anything.
    assert [(one.name, len(one.digest), bool(one.expires)) for one in loaded] == [
        ("tiny:latest", 64, True)
    ][: version == "v0.33.0"]
    assert [one.name for one in read_models(answer(named(version, "v1-models")))] == ["tiny:latest"]


@pytest.mark.parametrize("version", VERSIONS)
def test_merged_lists_are_stocks_own_but_for_the_nodes(version: str) -> None:
    def plain(text: bytes) -> bytes:
        return text.replace(b',"nodes":["tower"]', b"")

    def listed(entries: tuple[Entry, ...]) -> list[tuple[bytes, tuple[str, ...]]]:
        return [(entry.raw, ("tower",)) for entry in entries]

    of_tags = answer(named(version, "tags"))
    of_ps = answer(named(version, "ps"))
    of_models = answer(named(version, "v1-models"))

    assert plain(tags(listed(read_tags(of_tags)))) == of_tags
    assert plain(ps(listed(read_ps(of_ps)))) == of_ps
    assert plain(models(listed(read_models(of_models)))) == of_models
    ids = [one.name for one in read_models(models(listed(read_tags(of_tags))))]
    assert ids == ["tiny:latest"]
