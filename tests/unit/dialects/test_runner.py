"""Which options make another engine of a model."""

import json

import pytest

from ollama_wrap.dialects.runner import runner


def body(**options: object) -> bytes:
    return json.dumps({"model": "m", "prompt": "hi", "options": options}).encode()


def test_options_of_the_engine_count_and_those_of_sampling_do_not() -> None:
    asked = body(temperature=0.5, num_ctx=8192, num_gpu=0, seed=1, use_mmap=False)

    assert runner(asked) == "num_ctx=8192,num_gpu=0,use_mmap=false"
    assert runner(body(use_mmap=False, num_gpu=0, num_ctx=8192)) == runner(asked)
    assert runner(body(num_ctx=4096)) != runner(body(num_ctx=8192))


@pytest.mark.parametrize(
    "asked",
    [
        None,
        b"",
        b"{}",
        b'{"model":"m"}',
        b'{"options":null}',
        b'{"options":[1]}',
        b'{"options":{"num_ctx":',
        b"options",
        body(temperature=0),
        body(num_ctx=1, prompt="x" * 2_000_000),
        object(),
    ],
)
def test_what_says_nothing_of_an_engine_has_stock_s_own(asked: bytes | object) -> None:
    assert runner(asked) == ""


def test_names_are_read_as_go_reads_them() -> None:
    assert runner(b'{"Options":{"num_ctx":1},"options":{"num_ctx":2}}') == "num_ctx=2"
