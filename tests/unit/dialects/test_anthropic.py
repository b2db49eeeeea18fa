"""The Anthropic dialect: what recorded exchanges do not show."""

import pytest

from ollama_wrap.dialects.anthropic import Anthropic
from ollama_wrap.dialects.base import Ending

DELTA = b'event: content_block_delta\ndata: {"delta":{"text":"event: message_stop"}}\n\n'


@pytest.mark.parametrize(
    "status,kind",
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (429, "rate_limit_error"),
        (503, "overloaded_error"),
        (502, "api_error"),
    ],
)
def test_error_has_the_type_of_its_status(status: int, kind: str) -> None:
    headers, body = Anthropic().error(status, "no", "id-1")

    assert headers == [(b"Content-Type", b"application/json")]
    text = '{"type":"error","error":{"type":"%s","message":"no"},"request_id":"id-1"}\n'
    assert body.decode() == text % kind


@pytest.mark.parametrize("tail,gap", [(DELTA, b""), (DELTA[:-1], b"\n"), (DELTA[:-9], b"\n\n")])
def test_marker_is_a_named_event(tail: bytes, gap: bytes) -> None:
    marker = Anthropic().marker("reset", "id-1", tail)

    assert marker == gap + (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error",'
        b'"message":"stream interrupted: reset"},"request_id":"id-1"}\n\n'
    )


def test_only_the_stop_event_ends_a_stream() -> None:
    stop = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

    assert Anthropic().ending("messages", True, DELTA) == Ending(done=False, failed=False)
    assert Anthropic().ending("messages", True, DELTA + stop) == Ending(done=True, failed=False)


def test_error_event_is_a_failure() -> None:
    tail = DELTA + b'event: error\ndata: {"type":"error"}\n\n'

    assert Anthropic().ending("messages", True, tail) == Ending(done=False, failed=True)
