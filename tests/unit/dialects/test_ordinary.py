"""Ordinary bodies, and those that only look like them."""

import pytest

from ollama_wrap.dialects import ordinary


@pytest.mark.parametrize(
    "operation, body, said",
    [
        ("generate", b'{"model":"a","prompt":"b"}', ("a", None)),
        ("generate", b'{"prompt":"b","stream":false,"model":"a","options":{}}', ("a", False)),
        ("chat", b'{"model":"a","messages":[{"role":"user"}],"stream":true}', ("a", True)),
        ("embed", b'{"model":"a","input":["b"]}', ("a", None)),
        ("chat-completions", b'{"model":"a","messages":[],"stream":true}', ("a", True)),
        ("completions", b'{"model":"\\u00e4","prompt":"b"}', ("\u00e4", None)),
    ],
)
def test_body_as_libraries_write_it_is_read(
    operation: str, body: bytes, said: tuple[str, bool | None]
) -> None:
    read = ordinary.read(operation, body)

    assert read is not None
    assert (read.model, read.stream) == said


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a"}',
        b'{"model":"a","prompt":""}',
        b'{"model":"","prompt":"b"}',
        b'{"model":"a","prompt":"b","keep_alive":0}',
        b'{"model":"a","prompt":"b","context":[1]}',
        b'{"model":"a","prompt":"b","Model":"c"}',
        b'{"model":"a","prompt":"b","\\u006dodel":1}',
        b'{"model":"a","prompt":"b","stream":null}',
        b'{"model":"a","prompt":null}',
        b'{"model":"a","prompt":7}',
        b'{"model":"\\ud800","prompt":"b"}',
        b'{"model":"\xff","prompt":"b"}',
        b'{"model":"a","prompt":"b"} more',
        b'{"model":"a","prompt":"b"',
        b"",
    ],
)
def test_body_whose_meaning_takes_more_than_a_look_is_left_to_others(body: bytes) -> None:
    assert ordinary.read("generate", body) is None


def test_operation_that_changes_something_is_left_to_others() -> None:
    assert ordinary.read("create", b'{"model":"a","from":"b"}') is None
