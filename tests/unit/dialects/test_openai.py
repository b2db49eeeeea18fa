"""The OpenAI dialect: what recorded exchanges do not show."""

import pytest

from ollama_wrap.dialects.base import Ending
from ollama_wrap.dialects.openai import OpenAI

CHUNK = b'data: {"model":"m","choices":[{"delta":{"content":"x"}}]}\n\n'


@pytest.mark.parametrize(
    "status,kind",
    [(400, "invalid_request_error"), (404, "not_found_error"), (503, "api_error")],
)
def test_error_has_the_type_of_its_status(status: int, kind: str) -> None:
    headers, body = OpenAI().error(status, "no", "id")

    assert headers == [(b"Content-Type", b"application/json")]
    text = '{"error":{"message":"no","type":"%s","param":null,"code":null}}\n'
    assert body.decode() == text % kind


@pytest.mark.parametrize("tail,gap", [(CHUNK, b""), (CHUNK[:-1], b"\n"), (CHUNK[:-9], b"\n\n")])
def test_marker_is_an_event_of_its_own(tail: bytes, gap: bytes) -> None:
    marker = OpenAI().marker("node-down", "id", tail)

    assert marker == gap + (
        b'data: {"error":{"message":"stream interrupted: node-down","type":"api_error",'
        b'"param":null,"code":"node-down"}}\n\n'
    )


def test_words_of_an_answer_do_not_end_it() -> None:
    text = b'data: [DONE] \\"model\\":\\"\\"'
    tail = CHUNK + CHUNK.replace(b'"x"', b'"%s"' % text)

    assert OpenAI().ending("chat-completions", True, tail) == Ending(done=False, failed=False)


def test_error_event_in_mid_stream_is_a_failure() -> None:
    tail = CHUNK + b'data: {"error":{"message":"boom"}}\n\n'

    assert OpenAI().ending("chat-completions", True, tail) == Ending(done=False, failed=True)


@pytest.mark.parametrize(
    "word,ending",
    [
        ("completed", Ending(True, False, 7, 5)),
        ("incomplete", Ending(True, False, 7, 5)),
        ("failed", Ending(False, True, 7, 5)),
        ("in_progress", Ending(False, False, 7, 5)),
    ],
)
def test_responses_end_with_an_event_even_if_its_start_is_out_of_sight(
    word: str, ending: Ending
) -> None:
    end = b'x","usage":{"input_tokens":7,"output_tokens":5}},"type":"response.%s"}\n\n'
    tail = end % word.encode()

    assert OpenAI().ending("responses", True, tail) == ending


def test_whole_answer_is_an_object() -> None:
    body = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n'

    assert OpenAI().ending("chat-completions", False, body) == Ending(True, False, 7, 5)
    assert not OpenAI().ending("chat-completions", False, body[:-3]).done


def test_transcription_may_be_bare_text() -> None:
    assert OpenAI().ending("transcriptions", False, b"hello").done
    assert not OpenAI().ending("transcriptions", False, b"").done
