"""Both shapes of a native answer, recorded ones among them."""

import json
from pathlib import Path

import pytest

from ollama_wrap.dialects.shapes import folded, unfolded

RECORDED = {
    one["name"]: one["reply"]["body"].encode()
    for one in json.loads(
        (Path(__file__).parents[2] / "data/recordings/v0.33.0.json").read_text("utf-8")
    )
}
STREAM = (
    b'{"model":"m","message":{"role":"assistant","content":"","thinking":"a\\n"},"done":false}\n'
    b'{"model":"m","message":{"role":"assistant","content":"\\u003cx",'
    b'"tool_calls":[{"id":"1"}]},"done":false,"logprobs":[{"token":"x"}]}\n'
    b'{"model":"m","message":{"role":"assistant","content":"y","tool_calls":[{"id":"2"}]},'
    b'"done":false}\n'
    b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
    b'"logprobs":[{"token":"z"}],"eval_count":5}\n'
)
WHOLE = (
    b'{"model":"m","message":{"role":"assistant","content":"\\u003cxy","thinking":"a\\n",'
    b'"tool_calls":[{"id":"1"},{"id":"2"}]},"done":true,"done_reason":"stop",'
    b'"logprobs":[{"token":"x"},{"token":"z"}],"eval_count":5}'
)


@pytest.mark.parametrize("operation", ["generate", "chat"])
def test_recorded_stream_folds_into_the_recorded_object(operation: str) -> None:
    whole = folded(operation, RECORDED[f"{operation}-stream"])

    assert whole is not None
    assert timeless(whole) == timeless(RECORDED[f"{operation}-whole"])


def timeless(text: bytes) -> list[tuple[str, object]]:
    """The members in order, without what differs from run to run."""
    pairs: list[tuple[str, object]] = json.loads(text, object_pairs_hook=list)
    return [
        (key, None if key in {"created_at", "total_duration", "load_duration"} else value)
        for key, value in pairs
    ]


def test_texts_and_lists_of_all_lines_are_joined() -> None:
    assert folded("chat", STREAM) == WHOLE


def test_object_becomes_what_was_said_and_the_end() -> None:
    assert unfolded("chat", WHOLE) == (
        b'{"model":"m","message":{"role":"assistant","content":"\\u003cxy","thinking":"a\\n",'
        b'"tool_calls":[{"id":"1"},{"id":"2"}]},"done":false,'
        b'"logprobs":[{"token":"x"},{"token":"z"}]}\n'
        b'{"model":"m","message":{"role":"assistant","content":""},"done":true,'
        b'"done_reason":"stop","eval_count":5}\n'
    )


@pytest.mark.parametrize("name", ["generate-whole", "chat-whole", "generate-raw", "chat-unicode"])
def test_object_comes_back_from_its_lines_unchanged(name: str) -> None:
    operation = name.partition("-")[0]

    lines = unfolded(operation, RECORDED[name])

    assert lines is not None
    assert lines.count(b"\n") == 2
    assert folded(operation, lines) == RECORDED[name]


def test_null_in_a_line_adds_nothing() -> None:
    lines = b'{"response":"a","logprobs":null,"done":false}\n{"response":"","done":true}\n'

    assert folded("generate", lines) == b'{"response":"a","done":true}'


@pytest.mark.parametrize("text", [b"", b"\n", b"[1]\n", b'{"done":tr', b"\xff\n"])
def test_what_is_no_answer_has_no_other_shape(text: bytes) -> None:
    assert folded("generate", text) is None
    assert unfolded("generate", text) is None


def test_chat_without_a_message_has_no_other_shape() -> None:
    assert unfolded("chat", b'{"done":true}') is None
    assert folded("chat", b'{"done":true}\n') is None
