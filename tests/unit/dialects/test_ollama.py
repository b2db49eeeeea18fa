"""The native dialect: what recorded exchanges do not show."""

import json

import pytest

from ollama_wrap.dialects.base import Ending
from ollama_wrap.dialects.ollama import Ollama

LINE = b'{"model":"m","created_at":"t","response":"x","done":false}\n'


def test_error_is_one_object_without_a_line_end() -> None:
    headers, body = Ollama().error(503, "model 'x' is <away>", "id")

    assert headers == [(b"Content-Type", b"application/json; charset=utf-8")]
    assert body == b'{"error":"model \'x\' is \\u003caway\\u003e"}'


@pytest.mark.parametrize("tail,gap", [(b"", b""), (LINE, b""), (LINE[:-9], b"\n")])
def test_marker_is_a_line_of_its_own(tail: bytes, gap: bytes) -> None:
    marker = Ollama().marker("reset", 'i"d', tail)

    expected = b'{"error":"stream interrupted: reset","code":"reset","request_id":"i\\"d"}\n'
    assert marker == gap + expected
    assert json.loads(marker)["request_id"] == 'i"d'


def test_words_of_an_answer_do_not_end_it() -> None:
    call = b'{"function":{"arguments":{"done":true,"error":"x"}}}'
    message = b'{"content":"\\"done\\":true","tool_calls":[%s]}' % call
    line = b'{"message":%s,"done":false}\n' % message

    assert Ollama().ending("chat", True, LINE + line) == Ending(done=False, failed=False)


def test_last_line_is_known_by_its_metrics_where_its_start_is_out_of_sight() -> None:
    tail = b"17,18,19" * 2000 + b'],"total_duration":9,"prompt_eval_count":7,"eval_count":5}\n'
    cut = b"17,18,19" * 2000

    assert Ollama().ending("generate", True, tail) == Ending(True, False, 7, 5)
    assert Ollama().ending("generate", True, cut) == Ending(done=False, failed=False)


def test_embeddings_are_whole_when_their_object_is() -> None:
    whole = b'{"embedding":[0.1,0.2]}'

    assert Ollama().ending("embeddings", False, whole).done
    assert Ollama().ending("embed", False, b"0.1" * 9000 + b'],"prompt_eval_count":3}') == Ending(
        True, False, 3
    )
    assert not Ollama().ending("embed", False, whole[:-2]).done


@pytest.mark.parametrize("tail", [b"", b"\n", b"\xff\xff", b"[" * 16_384, b'{"done":"yes"}'])
def test_odd_ends_are_no_ends(tail: bytes) -> None:
    assert Ollama().ending("chat", True, tail) == Ending(done=False, failed=False)
