import json
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_wrap.errors import ConfigError, StoreUnavailable
from ollama_wrap.observe.ended import Ended
from ollama_wrap.observe.lines import FORMATS, LINE, Stamp, failure, quoted, word
from tests.unit.observe.samples import ended

STAMP = Stamp("2026-01-02T03:04:05.678Z", "03:04:05.678")
HOSTILE = '/x y="\\\n\r\x00\x1b[31m\x7f\x9b\u2028\u202eé\U0001f600\udc80'
BARE = {"model": None, "node": None, "reason": None, "fallback": None, "attempts": ()}
UNKNOWN = {"tokens": None, "first_byte": None, "error": None}


def request(form: str, e: Ended) -> str:
    return FORMATS[form].request(STAMP, e)


def event(form: str, text: str, /, **fields: object) -> str:
    return FORMATS[form].event(STAMP, "warning", text, fields)


def logfmt(line: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in shlex.split(line))


def test_request_in_logfmt() -> None:
    assert request("logfmt", ended()) == (
        "time=2026-01-02T03:04:05.678Z level=info event=request id=req-1 method=POST"
        " path=/api/chat operation=chat model=llama3:latest node=r2 reason=busy fallback=connect"
        " attempts=r1:connect,r2:ok status=200 bytes=512 tokens=11 first_byte=0.500"
        " duration=2.500\n"
    )


def test_request_on_the_console() -> None:
    assert request("console", ended(**BARE, **UNKNOWN, status=502)) == (
        "03:04:05.678 warning POST /api/chat operation=chat status=502 bytes=512"
        " duration=2.500 id=req-1\n"
    )


def test_request_in_json_has_all_fields_in_their_order() -> None:
    line = request("json", ended(**BARE, **UNKNOWN))

    assert json.loads(line) == {
        "time": "2026-01-02T03:04:05.678Z", "level": "info", "event": "request", "id": "req-1",
        "method": "POST", "path": "/api/chat", "operation": "chat", "model": None, "node": None,
        "reason": None, "fallback": None, "attempts": None, "status": 200, "bytes": 512,
        "tokens": None, "first_byte": None, "duration": 2.5, "error": None,
    }  # fmt: skip
    assert list(json.loads(line)) == list(json.loads(request("json", ended(error="broke"))))


@pytest.mark.parametrize("form", FORMATS)
def test_hostile_text_stays_on_one_printable_line(form: str) -> None:
    e = ended(id=HOSTILE, method=HOSTILE, path=HOSTILE, model=HOSTILE, error=HOSTILE)

    for line in (request(form, e), event(form, HOSTILE, path=HOSTILE)):
        assert re.fullmatch(r"[ -~]+\n", line)


def test_hostile_text_comes_back_whole_from_json() -> None:
    line = json.loads(request("json", ended(path=HOSTILE, model="a\nb")))

    assert line["path"] == HOSTILE
    assert line["model"] == "a\nb"


def test_hostile_text_cannot_add_a_field_in_logfmt() -> None:
    line = request("logfmt", ended(path='/a" status=200 x="', model="m status=1", status=500))

    assert line.count(" status=") == 3
    assert logfmt(line)["status"] == "500"
    assert logfmt(line)["path"] == '/a" status=200 x="'


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("filler", ["x", " ", "\n", "\U0001f600", "\\", '"', "a\x01"])
def test_line_is_at_most_two_kibibytes(form: str, filler: str) -> None:
    long = filler * 100_000
    e = ended(
        id=long[:128], method=long, path=long, operation=long, model=long, node=long,
        reason=long, fallback=long, attempts=((long, long),), error=long,
        status=599, bytes_out=10**15, tokens=10**9, first_byte=1e6, duration=1e6,
    )  # fmt: skip

    assert len(request(form, e)) <= LINE
    assert len(event(form, long, **{f"f{n}": long for n in range(20)})) <= LINE


@given(st.text(max_size=300), st.integers(20, 80))
def test_quoted_text_is_json_and_bounded(text: str, limit: int) -> None:
    result = quoted(text, limit)

    assert len(result) <= limit
    assert text.startswith(json.loads(result))


@pytest.mark.parametrize("text", ["", "a b", "a=b", 'a"b', "a\\b", "é", "a\n"])
def test_word_is_quoted_where_it_could_be_mistaken(text: str) -> None:
    assert word(text, 50) == json.dumps(text)
    assert word("hf.co/a_b/c-d:Q4@1", 50) == "hf.co/a_b/c-d:Q4@1"


def test_events_carry_fields_of_every_sort() -> None:
    fields = {"n": 3, "yes": True, "part": 0.25, "none": None, "text": "a b", "nan": float("nan")}

    assert event("logfmt", "node is down", **fields) == (
        'time=2026-01-02T03:04:05.678Z level=warning event="node is down"'
        ' n=3 yes=true part=0.25 text="a b" nan=null\n'
    )
    assert event("console", "node is down", n=3) == "03:04:05.678 warning node is down n=3\n"
    assert json.loads(event("json", "e", **fields))["nan"] is None
    assert json.loads(event("json", "e", **fields))["text"] == "a b"


@pytest.mark.parametrize("form", FORMATS)
def test_password_in_an_address_is_not_written(form: str) -> None:
    line = event(form, "no redis://u:p@ss@h:1/0", url="https://token@h/p?mail=a@b")

    assert "p@ss" not in line
    assert "token" not in line
    assert "redis://***@h:1/0" in line


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_exception_says_what_and_where() -> None:
    fields = failure(raised(OSError("disk is full")))

    assert fields["error"] == "OSError: disk is full"
    assert re.fullmatch(r"observe/test_lines\.py:\d+ raised", fields["where"])


def test_exception_that_may_repeat_a_prompt_does_not() -> None:
    assert failure(raised(ValueError("prompt")))["error"] == "ValueError"
    assert failure(raised(KeyError("prompt")))["error"] == "KeyError"
    assert failure(raised(ConfigError(["A: bad"])))["error"] == "ConfigError: A: bad"


def test_cause_of_an_exception_is_named() -> None:
    error = StoreUnavailable("gone")
    error.__cause__ = OSError("no disk")

    assert failure(error)["cause"] == "OSError: no disk"
