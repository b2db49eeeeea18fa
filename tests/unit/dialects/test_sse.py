"""What event streams have in common."""

import pytest

from ollama_wrap.dialects.sse import gap, usage


@pytest.mark.parametrize(
    "tail,expected",
    [
        (b"", b""),
        (b"data: 1\n\n", b""),
        (b"data: 1\r\n\r\n", b""),
        (b"data: 1\n", b"\n"),
        (b"data: 1\r\n", b"\n"),
        (b"data: {", b"\n\n"),
    ],
)
def test_new_event_begins_on_a_line_of_its_own(tail: bytes, expected: bytes) -> None:
    assert gap(tail) == expected


@pytest.mark.parametrize(
    "tail,expected",
    [
        (b'"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}', (7, 5)),
        (b'"usage":{"input_tokens": 7, "output_tokens": 5}', (7, 5)),
        (b'"usage":{"prompt_tokens":3,"total_tokens":3}', (3, None)),
        (b'{"usage":{"prompt_tokens":1}} {"usage":{"prompt_tokens":2}}', (2, None)),
        (b'"usage":null', (None, None)),
        (b'{"text":"\\"usage\\":{\\"prompt_tokens\\":9}"}', (None, None)),
        (b"", (None, None)),
    ],
)
def test_last_usage_counts(tail: bytes, expected: tuple[int | None, int | None]) -> None:
    assert usage(tail) == expected
