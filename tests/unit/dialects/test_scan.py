"""Long JSON objects in pieces: the same fields as of the whole body."""

import json
import time
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollama_wrap.dialects import incoming, read, route
from ollama_wrap.dialects.body import fields, string_places
from ollama_wrap.dialects.scan import KEPT, Scan

WANTED: Mapping[str, bool] = {"model": False, "stream": True, "messages": True, "prompt": False}


def scanned(body: bytes, size: int = 65536) -> Scan:
    scan = Scan(WANTED)
    for at in range(0, len(body), size):
        scan.feed(body[at : at + size])
    return scan


def values(body: bytes, size: int = 65536) -> dict[str, bytes] | None:
    found = scanned(body, size).found()
    return None if found is None else {name: bytes(value) for name, value in found[0].items()}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 300, 65536])
@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a"}',
        b' \t\r\n{ "model" : "a" , "x" : [ ] } ',
        b'{"MODEL":"a","stream":true}',
        b'{"\\u006dodel":"a"}',
        '{"\u017ftream":true,"me\u017f\u017fages":[]}'.encode(),
        b'{"model":"a","Model":"b","model":"c"}',
        b'{"model":"a","model":null,"stream":true,"stream":null}',
        b'{"x":{"model":"b","y":["]}",{"model":"c"}]},"model":"a"}',
        b'{"x":"\\"","y":"\\\\","z":"\\\\\\"}","model":"a\\"b\\\\"}',
        b'{"x":["\\"]","\\\\"],"model":"a"}',
        b'{"x":"{[","model":"]}"}',
        b'{"x":-0.0E-7,"y":null,"z":false,"model":"a"}',
        b'{"model":"a"} trailing',
        b'{"model":"a"}{"model":"b"}',
        b'{"x":"\xff\xfe","model":"\\ud800"}',
        b"{ }",
        b'{"messages":[{"role":"user","content":"{\\"a\\":[1]}"}],"model":"a"}',
        b'{"x":' + b'[{"y":' * 500 + b"1" + b"}]" * 500 + b',"model":"a"}',
        b'{"prompt":"' + b"x" * 900 + b'","messages":[' + b" " * 900 + b'],"model":"a"}',
        b'{"' + b"k" * 5000 + b'":1,"model":"a","x":' + b"1" * 5000 + b"}",
    ],
)
def test_pieces_of_any_size_say_what_the_whole_body_says(body: bytes, size: int) -> None:
    found, whole = scanned(body, size).found(), fields(body, WANTED)

    assert found == whole
    assert found is not None


@pytest.mark.parametrize("size", [1, 5, 65536])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b'"model"',
        b'{"model"',
        b'{"model":"a"',
        b'{"model":"a",}',
        b'{"model":"a" "x":1}',
        b'{"model" "a"}',
        b'{"model":}',
        b"{,}",
        b'{model:"a"}',
        b'{"model":tru}',
        b'{"model":01}',
        b'{"model":"\\x"}',
        b'{"model":"\n"}',
        b'{"\\x":1}',
        b'{"x":[\\],"model":"a"}',
        b'{"x":["a],"model":"b"}',
        b'\xef\xbb\xbf{"model":"a"}',
    ],
)
def test_what_is_no_json_object_says_nothing(body: bytes, size: int) -> None:
    assert scanned(body, size).found() is None
    assert fields(body, WANTED) is None


@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_long_value_is_its_first_byte(size: int) -> None:
    long = b"y" * KEPT
    body = b'{"prompt":"%b","messages":[%b],"model":"m","stream":{"x":"%b"}}' % (long, long, long)

    assert values(body, size) == {
        "prompt": b'"',
        "messages": b"[",
        "model": b'"m"',
        "stream": b"{",
    }


def test_value_of_the_most_that_is_kept_is_whole() -> None:
    just, more = (b'"%b"' % (b"y" * (KEPT - 2 + extra)) for extra in (0, 1))

    assert values(b'{"prompt":%b}' % just) == {"prompt": just}
    assert values(b'{"prompt":%b}' % more) == {"prompt": b'"'}


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream":' + b"1" * (KEPT + 1) + b"}",
        b"{" + b'"x":1,' * 300 + b'"model":"a"}',
        b'{"x":' + b"[" * 20_000,
    ],
    ids=["number", "members", "depth"],
)
def test_what_no_client_writes_says_nothing(body: bytes) -> None:
    scan = scanned(body)

    assert scan.over
    assert scan.found() is None


def test_beginning_says_what_it_holds_in_full() -> None:
    scan = scanned(b'{"stream":true,"model":"m","messages":[1,2,')

    assert scan.found() is None
    assert scan.found(whole=False) == ({"stream": b"true", "model": b'"m"'}, [])


@pytest.mark.parametrize("size", [1, 4, 65536])
@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m"}',
        b' {"x" : ["model"], "Model" : "a\\"b" , "y":1}',
        b'{"model":"a","MODEL":"b"}',
        b'{"model":7}',
        b'{"x":1}',
    ],
)
def test_places_of_the_model_are_those_of_the_whole_body(body: bytes, size: int) -> None:
    assert scanned(body, size).places("model") == string_places(body, {"model"})


def hostile(part: bytes) -> bytes:
    return b'{"x":[' + part * ((2 << 20) // len(part)) + b'1],"model":"m"}'


@pytest.mark.parametrize(
    "body",
    [
        hostile(b'"",'),
        hostile(b"[],"),
        hostile(b"[" * 5000 + b"]" * 5000 + b","),
        hostile(b'"' + b"\\\\" * 1000 + b'\\"",'),
        b'{"x":"' + b'\\"' * (1 << 20) + b'","model":"m"}',
        b"{" + b'"x":"",' * 250 + b'"y":' + b" " * (2 << 20) + b'1,"model":"m"}',
    ],
    ids=["strings", "lists", "deep", "backslashes", "quotes", "blanks"],
)
def test_no_piece_takes_long(body: bytes) -> None:
    scan, times = Scan(WANTED), []

    for at in range(0, len(body), 65536):
        began = time.thread_time()
        scan.feed(body[at : at + 65536])
        times.append(time.thread_time() - began)

    found = scan.found()
    assert found is not None
    assert found[0]["model"] == b'"m"'
    # 4 ms at most on a quiet machine.
    assert sorted(times)[-2] < 0.04


# ---------------------------------------------------------------- random bodies

PATHS = [
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/create",
    "/api/copy",
    "/api/show",
    "/v1/completions",
    "/v1/responses",
]
NAMES = [
    "model", "Model", "MODEL", "\\u006dodel", "name", "stream", "\u017ftream", "keep_alive",
    "KEEP_ALIVE", "prompt", "messages", "input", "context", "from", "files", "remote_host",
    "source", "destination", "x", "images", "\\\\", '\\"', "",
]  # fmt: skip
blanks = st.sampled_from(["", "", "", " ", "\n\t ", " " * 300])
strings = st.one_of(
    st.text(max_size=12).map(json.dumps),
    st.text(max_size=12).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(['"m"', '""', '"0s"', '"5m"', '"]"', '"[{"', '"\\\\"', '"\\\\\\""']),
    st.integers(900, 1100).map(lambda count: f'"{"a" * count}"'),
    st.integers(900, 1100).map(lambda count: '"' + "\\\\" * count + '\\""'),
)
scalars = st.one_of(strings, st.sampled_from(["0", "-1", "1.5e3", "true", "false", "null", "0.0"]))


def lists(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(
        lambda items, pad: "[" + pad + f"{pad},".join(items) + pad + "]",
        st.lists(inner, max_size=4),
        blanks,
    )


def objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.builds(
        lambda name, pad, value: f'"{name}"{pad}:{pad}{value}',
        st.sampled_from(NAMES),
        blanks,
        inner,
    )
    return st.builds(
        lambda items, pad: "{" + pad + f"{pad},{pad}".join(items) + pad + "}",
        st.lists(members, max_size=6),
        blanks,
    )


nested = st.recursive(scalars, lambda inner: lists(inner) | objects(inner), max_leaves=12)
bodies = objects(nested).map(lambda text: text.encode("utf-8", "surrogatepass"))


def cut(body: bytes, places: list[int]) -> Iterator[bytes]:
    at = 0
    for place in sorted(place % (len(body) + 1) for place in places):
        yield body[at:place]
        at = place
    yield body[at:]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PATHS), bodies, st.lists(st.integers(0, 1 << 16), max_size=12))
def test_random_bodies_read_alike_however_they_are_cut(
    path: str, body: bytes, places: list[int]
) -> None:
    taken = route("POST", path)
    coming = incoming(taken, [])
    assert coming is not None

    for piece in cut(body, places):
        coming.feed(piece)
    found, whole = coming.reading(), read(taken, body, [])

    if found is not None and whole is not None and found.sources != whole.sources:
        # The scan tells of a model that came twice in one spelling too.
        assert set(whole.sources) < set(found.sources)
        assert len(json.loads(body, object_pairs_hook=list)) > len(json.loads(body))
        return
    if found is None and whole is not None:
        # Names that are longer than any.
        texts = (whole.model, whole.follows, *whole.sources)
        assert any(len(json.dumps(text)) > KEPT // 2 for text in texts if text)
        return
    assert found == whole


@settings(max_examples=300, deadline=None)
@given(
    bodies,
    st.lists(st.integers(0, 1 << 16), max_size=6),
    st.integers(0, 1 << 16),
    st.sampled_from([b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b"0", b"\x00", b""]),
)
def test_broken_bodies_are_read_alike_wherever_stock_reads_them(
    body: bytes, places: list[int], at: int, put: bytes
) -> None:
    at %= len(body)
    broken = body[:at] + put + body[at + 1 :]
    taken = route("POST", "/api/chat")
    coming = incoming(taken, [])
    assert coming is not None

    for piece in cut(broken, places):
        coming.feed(piece)
    found, whole = coming.reading(), read(taken, broken, [])

    if whole is not None and found is not None:
        assert (found.model, found.stream, found.load) == (whole.model, whole.stream, whole.load)
