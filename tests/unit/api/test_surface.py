import json

import pytest

from ollama_wrap.api.status import live
from ollama_wrap.api.surface import Asked, Row, Scope, shown
from ollama_wrap.errors import BadCall
from tests.unit.api.calls import call


def asked(body: bytes) -> Asked:
    return Asked(call("POST", "/admin/mode"), {}, body)


@pytest.mark.parametrize(
    "text, value", [("true", True), ("null", None), ('"a"', "a"), ("[1]", [1])]
)
def test_one_key_is_read_whatever_its_value(text: str, value: object) -> None:
    assert asked(f' {{"key": {text}}}\n'.encode()).only("key") == value


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"key":1,"key":1}', b'{"key":1,"b":1}'])
def test_anything_but_the_one_key_is_refused_by_its_name(body: bytes) -> None:
    with pytest.raises(BadCall, match="'key'"):
        asked(body).only("key")


def test_names_from_outside_are_shown_in_ascii() -> None:
    answer = shown({"name": "ü\ud800\n"}, 503)

    assert answer.status == 503
    assert answer.body.isascii()
    assert json.loads(answer.body) == {"name": "ü\ud800\n"}


@pytest.mark.parametrize("method, methods", [("GET", ("GET", "HEAD")), ("POST", ("POST",))])
def test_head_is_taken_where_get_is(method: str, methods: tuple[str, ...]) -> None:
    assert Row(method, "/x", Scope.OPEN, live).methods == methods
