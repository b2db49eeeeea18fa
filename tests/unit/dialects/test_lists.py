"""Lists: read without loss, written merged as stock writes them."""

import json

import pytest

from ollama_wrap.dialects.lists import (
    Entry,
    extended,
    models,
    ps,
    read_models,
    read_ps,
    read_tags,
    tags,
)


def tag(name: str, modified: str = "2026-11-20T13:55:37.08Z", more: str = "") -> bytes:
    return (
        f'{{"name":"{name}","model":"{name}","modified_at":"{modified}","size":1500,'
        f'"digest":"ab","x":[1.50e3,"\\u003c"]{more}}}'
    ).encode()


def test_entries_of_tags_are_read_and_kept_as_they_came() -> None:
    first = b'{"name":"a:latest","size":7,"digest":"ab","new_key":1.50}'
    second = b'{"name":"c","remote_host":"https://ollama.com","size":9,"digest":"cd"}'

    found = read_tags(b'{"models":[' + first + b", " + second + b"]}")

    assert found == (
        Entry("a:latest", "ab", 7, raw=first),
        Entry("c", "cd", 9, remote=True, raw=second),
    )


def test_entries_without_a_name_are_left_out() -> None:
    assert read_tags(b'{"models":[{"name":"","digest":"ab"},{"model":"a"}]}') == (
        Entry("a", raw=b'{"model":"a"}'),
    )


def test_entries_of_ps_say_when_they_expire_and_what_they_take() -> None:
    raw = b'{"name":"a","model":"a","size":7,"digest":"ab","expires_at":"soon","size_vram":0}'

    found = read_ps(b'{"models":[' + raw + b"]}")

    assert found == (Entry("a", "ab", 7, expires="soon", size_vram=0, raw=raw),)


def test_entries_of_openai_lists_are_named_by_their_id() -> None:
    raw = b'{"id":"org/m","object":"model","created":5,"owned_by":"sglang"}'

    assert read_models(b'{"object":"list","data":[' + raw + b"]}") == (Entry("org/m", raw=raw),)
    assert read_models(b'{"object":"list","data":null}') == ()


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"models":{}}', b'{"models":[1]}', b"<html>", b"[" * 100_000]
)
def test_what_is_no_list_is_said(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a list of models"):
        read_tags(text)
    with pytest.raises(ValueError, match="not a list of models"):
        read_models(text)


def test_tags_are_written_with_their_nodes_last() -> None:
    raw = tag("a")

    assert tags([(raw, ("tower", "r<1"))]) == (
        b'{"models":[' + raw[:-1] + b',"nodes":["tower","r\\u003c1"]}]}'
    )
    assert tags([]) == b'{"models":[]}'


def test_tags_come_latest_first_by_whole_seconds() -> None:
    entries = [
        tag("old", "2025-11-20T13:55:37Z"),
        tag("first", "2026-11-20T13:55:37.1Z"),
        tag("second", "2026-11-20T14:55:37.999999999+01:00"),
        tag("undated", "never"),
        tag("new", "2026-11-20T13:55:38Z"),
    ]

    written = json.loads(tags([(raw, ()) for raw in entries]))

    names = [model["name"] for model in written["models"]]
    assert names == ["new", "first", "second", "old", "undated"]


def test_ps_comes_longest_remaining_first() -> None:
    entries = [
        tag("soon", more=',"expires_at":"2026-11-20T14:01:12.94968618Z"'),
        tag("never", more=',"expires_at":"2319-01-01T00:00:00Z"'),
    ]

    written = json.loads(ps([(raw, ("n",)) for raw in entries]))

    assert [model["name"] for model in written["models"]] == ["never", "soon"]


def test_models_are_made_of_tags_and_of_openai_entries() -> None:
    theirs = b'{"id":"org/m","object":"model","created":1795182936,"owned_by":"sglang"}'

    written = models(
        [
            (theirs, ("gpu",)),
            (tag("tiny:latest"), ("tower",)),
            (tag("me/x:1", "2026-01-01T00:00:00Z"), ()),
        ]
    )

    assert written.endswith(b"}\n")
    assert json.loads(written) == {
        "object": "list",
        "data": [
            {"id": "tiny:latest", "object": "model", "created": 1795182937,
             "owned_by": "library", "nodes": ["tower"]},
            {"id": "org/m", "object": "model", "created": 1795182936,
             "owned_by": "sglang", "nodes": ["gpu"]},
            {"id": "me/x:1", "object": "model", "created": 1767225600,
             "owned_by": "me", "nodes": []},
        ],
    }  # fmt: skip


def test_no_models_are_null_as_in_stock() -> None:
    assert models([]) == b'{"object":"list","data":null}\n'


def test_one_more_key_goes_to_the_end_of_an_object() -> None:
    assert extended(b'{"version":"0.33.0"}\n', "x", "[1]") == b'{"version":"0.33.0","x":[1]}'
    assert extended(b"{ }", "x", "1") == b'{"x":1}'
