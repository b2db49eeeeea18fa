"""Bodies as Go reads them. What stands in the tables was seen with Go 1.26's encoding/json."""

import json
from collections.abc import Mapping

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ollama_wrap.dialects.body import (
    Unpacking,
    fields,
    form_field,
    rewritten,
    string,
    string_places,
    unpacked,
    without,
)

# True: null clears an earlier value (a pointer), False: it leaves it (a string).
WANTED: Mapping[str, bool] = {"model": False, "stream": True, "keep_alive": True, "messages": True}
ZSTD = [(b"Content-Encoding", b"zstd")]
FORM = [(b"Content-Type", b"multipart/form-data; boundary=X")]


def read(body: bytes) -> dict[str, str] | None:
    found = fields(body, WANTED)
    if found is None:
        return None
    return {name: bytes(value).decode("utf-8", "replace") for name, value in found[0].items()}


@pytest.mark.parametrize(
    "body,expected",
    [
        (b'{"model":"a"}', {"model": '"a"'}),
        (b' \t\r\n{ "model" : "a" , "x" : [ ] } ', {"model": '"a"'}),
        (b'{"MODEL":"a"}', {"model": '"a"'}),
        (b'{"\\u006dodel":"a"}', {"model": '"a"'}),
        (b'{"\\u004dodel":"a"}', {"model": '"a"'}),
        ('{"\u017ftream":true}'.encode(), {"stream": "true"}),
        ('{"me\u017f\u017fages":[]}'.encode(), {"messages": "[]"}),
        ('{"\u212aeep_alive":0}'.encode(), {"keep_alive": "0"}),
        (b'{"\\u017fTREAM":true}', {"stream": "true"}),
        ('{"mode\u0131":"a","\u017ft\u0130eam":true}'.encode(), {}),
        (b'{"model\\u0000":"a"}', {}),
        (b'{"model":"a","model":"b"}', {"model": '"b"'}),
        (b'{"model":"a","MODEL":"b"}', {"model": '"b"'}),
        (b'{"MODEL":"b","model":"a"}', {"model": '"a"'}),
        (b'{"model":"a","Model":"b","model":"c"}', {"model": '"c"'}),
        (b'{"model":null}', {}),
        (b'{"model":"a","model":null}', {"model": '"a"'}),
        (b'{"model":"a","MODEL":null}', {"model": '"a"'}),
        (b'{"stream":false,"stream":null}', {}),
        (b'{"stream":false,"Stream":null}', {}),
        (b'{"x":{"model":"a"},"y":["model"]}', {}),
        (b'{"x":{"model":"b"},"model":"a"}', {"model": '"a"'}),
        (b"{}", {}),
        (b"null", {}),
        (b" null x", {}),
        (b'{"model":"a"} trailing', {"model": '"a"'}),
        (b'{"model":"a"}{"model":"b"}', {"model": '"a"'}),
        (b'{"model":"a"}\x00\xff', {"model": '"a"'}),
        (b'{"x":"\\ud800","model":"a"}', {"model": '"a"'}),
        (b'{"x":"\xff\xfe","model":"a"}', {"model": '"a"'}),
        (b'{"\xff":1,"model":"a"}', {"model": '"a"'}),
        (b'{"\\ud800":1,"model":"a"}', {"model": '"a"'}),
        (b'{"x":' + b"9" * 5000 + b',"model":"a"}', {"model": '"a"'}),
        (b'{"x":1e999,"y":-0.0E-7,"model":"a"}', {"model": '"a"'}),
        (b'{"x":"\x7f","model":"a"}', {"model": '"a"'}),
    ],
)
def test_body_that_go_reads_says_what_go_reads(body: bytes, expected: dict[str, str]) -> None:
    assert read(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b'\xef\xbb\xbf{"model":"a"}',
        b"[]",
        b"1",
        b'"model"',
        b"true",
        b'{"model":"a"',
        b'{"model":"a",}',
        b'{"model":"a"]',
        b'{"model" "a"}',
        b'{"model":}',
        b'{model:"a"}',
        b"{'model':'a'}",
        b'{"model":"a" "x":1}',
        b'{,"model":"a"}',
        b'{"x":[1,],"model":"a"}',
        b'{"x":[,1],"model":"a"}',
        b'{"x":01,"model":"a"}',
        b'{"x":1.,"model":"a"}',
        b'{"x":.5,"model":"a"}',
        b'{"x":+1,"model":"a"}',
        b'{"x":-,"model":"a"}',
        b'{"x":1e,"model":"a"}',
        b'{"x":NaN,"model":"a"}',
        b'{"x":Infinity,"model":"a"}',
        b'{"x":tru,"model":"a"}',
        b'{"x":"\\x","model":"a"}',
        b'{"x":"\\u12g4","model":"a"}',
        b'{"x":"\x01","model":"a"}',
        b'{"x":"\n","model":"a"}',
        b'{"model":"a"\x0c}',
        b'{"model":"a"/**/}',
        b"}",
        b'"unclosed',
    ],
)
def test_body_that_go_refuses_is_not_read(body: bytes) -> None:
    assert read(body) is None


@pytest.mark.parametrize("opened,closed", [(b"[", b"]"), (b'{"x":', b"}")])
def test_nesting_is_read_to_the_depth_that_go_reads(opened: bytes, closed: bytes) -> None:
    def nested(depth: int) -> bytes:
        inside = b"" if opened == b"[" else b"0"
        return b'{"model":"a","x":' + opened * depth + inside + closed * depth + b"}"

    assert read(nested(9_999)) == {"model": '"a"'}
    assert read(nested(10_000)) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"x":' + b"[" * 100_000,
        b"[" * 100_000,
        b'{"MODEL":"a","x":[' + b"1," * 60_000 + b"1]}",
        b'{"MODEL":"a","x":"' + b"\\n" * 600_000 + b'"}',
        b'{"MODEL":"a","x":"' + b"a" * (8 << 20) + b'"}',
    ],
    ids=["depth", "arrays", "tokens", "escapes", "size"],
)
def test_odd_bodies_that_would_hold_the_loop_are_left_alone(body: bytes) -> None:
    assert read(body) is None


def test_large_body_of_the_usual_make_is_read() -> None:
    body = b'{"x":[' + b'"text \\n",' * 500_000 + b'""],"model":"a"}'

    assert read(body) == {"model": '"a"'}


_keys = st.sampled_from(["model", "MODEL", "Stream", "stream", "\u017ftream", "x", "keep_alive"])
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.tuples(_keys, _json), max_size=6), st.booleans())
def test_both_ways_of_reading_agree_with_the_rule(
    pairs: list[tuple[str, object]], ascii_only: bool
) -> None:
    body = "{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in pairs) + "}"
    if not ascii_only:
        inside = (f'"{k}":{json.dumps(v, ensure_ascii=False)}' for k, v in pairs)
        body = ("{" + ",".join(inside) + "}").encode("utf-8", "replace").decode()
    expected: dict[str, object] = {}
    for key, value in pairs:
        name = key.lower().replace("\u017f", "s")
        if name not in WANTED:
            continue
        if value is not None:
            expected[name] = value
        elif WANTED[name]:
            expected.pop(name, None)

    usual = read(body.encode())
    scanned = read(body.encode() + b" x")

    assert usual is not None
    assert usual == scanned
    if ascii_only:
        assert {name: json.loads(value) for name, value in usual.items()} == expected


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0dna1-.etl ', max_size=40))
def test_no_bytes_whatever_raise(body: bytes | str) -> None:
    raw = body if isinstance(body, bytes) else body.encode()

    found = fields(raw, WANTED)

    assert found is None or isinstance(found[0], dict)


def test_overwritten_spellings_are_told() -> None:
    found = fields(b'{"model":"a","x":1,"MODEL":"b","mOdel":"c"}', WANTED)

    assert found is not None
    assert [(name, bytes(value)) for name, value in found[1]] == [
        ("model", b'"a"'),
        ("model", b'"b"'),
    ]


def test_beginning_of_a_body_is_read_as_far_as_it_goes() -> None:
    found = fields(b'{"model":"a","stream":false,"messages":[{"role":"us', WANTED, whole=False)

    assert found is not None
    assert {name: bytes(value) for name, value in found[0].items()} == {
        "model": b'"a"',
        "stream": b"false",
    }


@pytest.mark.parametrize(
    "text,expected",
    [
        (b'"plain"', "plain"),
        (b'"\\u00e9\\n\\/\\""', 'é\n/"'),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"\\ud800"', "\ufffd"),
        (b'"\\ud800x\\udc00"', "\ufffdx\ufffd"),
        (b'"\xff"', "\ufffd"),
        (b'"\\u0000"', "\x00"),
    ],
)
def test_text_of_a_string_is_what_go_decodes(text: bytes, expected: str) -> None:
    assert string(text) == expected


def test_zstd_body_is_unpacked_and_others_are_left() -> None:
    packed = zstandard.compress(b"one") + zstandard.compress(b"two")

    assert unpacked(packed, ZSTD) == b"onetwo"
    assert unpacked(packed, [(b"content-encoding", b"gzip")]) == packed
    assert unpacked(packed, []) == packed


def test_zstd_body_of_more_than_20_mib_is_not_read() -> None:
    limit = 20 << 20

    assert unpacked(zstandard.compress(b" " * limit), ZSTD) == b" " * limit
    assert unpacked(zstandard.compress(b" " * (limit + 1)), ZSTD) is None


@pytest.mark.parametrize("packed", [b"not zstd", zstandard.compress(b"one") + b"garbage"])
def test_broken_zstd_is_not_read(packed: bytes) -> None:
    assert unpacked(packed, ZSTD) is None


def test_zstd_of_very_many_frames_is_not_read() -> None:
    frame = zstandard.compress(b"")
    skipped = b"\x50\x2a\x4d\x18\0\0\0\0"

    assert unpacked(frame * 900 + zstandard.compress(b"{}"), ZSTD) == b"{}"
    assert unpacked(frame * 2000, ZSTD) is None
    assert unpacked(skipped * 2000 + zstandard.compress(b"{}"), ZSTD) is None


def test_zstd_window_of_more_than_8_mib_is_refused_as_stock_refuses_it() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = writer.compress(b"x" * (9 << 20)) + writer.flush()

    assert unpacked(packed, ZSTD) is None


def part(head: str, value: str = "tiny") -> bytes:
    return f"--X\r\nContent-Disposition: {head}\r\n\r\n{value}\r\n".encode()


FILE = part('form-data; name="file"; filename="model"', "RIFF --X \r\n-- model")


@pytest.mark.parametrize(
    "parts",
    [
        part('form-data; name="model"') + FILE,
        FILE + part('form-data; name="model"'),
        FILE + part("form-data; name=model") + part('form-data; name="model"', "second"),
        b"preamble\r\n" + part('form-data; NAME="model"'),
        part('form-data; name="model"; filename="x"', "a file") + part('form-data; name="model"'),
    ],
)
def test_first_field_of_that_name_is_found_in_a_form(parts: bytes) -> None:
    assert form_field(parts + b"--X--\r\n", FORM, b"model") == "tiny"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--X--\r\n",
        FILE + b"--X--\r\n",
        b"--X\r\nContent-Disposition: form-data; name=model\r\n\r\ntiny",
        part("form-data; name*=utf-8''model") + b"--X--\r\n",
        part('form-data; name="model"\r\nContent-Transfer-Encoding: quoted-printable') + b"--X--",
        part('form-data; name="x"') * 64 + part('form-data; name="model"') + b"--X--",
        part('form-data; name="' + "x" * 20_000 + '"') + part('form-data; name="model"') + b"--X--",
    ],
    ids=["empty", "no parts", "only a file", "no end", "encoded", "transfer", "many", "long head"],
)
def test_form_of_an_unusual_make_is_left_to_stock(body: bytes) -> None:
    assert form_field(body, FORM, b"model") is None


@pytest.mark.parametrize(
    "value", [b"application/json", b"multipart/form-data", b"multipart/mixed; boundary=X", b""]
)
def test_form_without_its_content_type_is_not_read(value: bytes) -> None:
    body = part('form-data; name="model"') + b"--X--\r\n"

    assert form_field(body, [(b"Content-Type", value)], b"model") is None


def test_boundary_may_be_quoted() -> None:
    headers = [(b"content-type", b'Multipart/Form-Data; charset=x; boundary="X"')]

    assert form_field(part('form-data; name="model"') + b"--X--", headers, b"model") == "tiny"


SHAPE = frozenset({"stream", "stream_options"})


@pytest.mark.parametrize(
    "body,kept",
    [
        (b'{"a":1,"stream":true}', [b'"a"', b"1"]),
        (b' { "a" : [1, 2] , "STREAM" : false }\n', [b'"a"', b"[1, 2]"]),
        (b'{"\\u0073tream":true,"stream_options":{"x":{}},"b":"\\"}"}', [b'"b"', b'"\\"}"']),
        ('{"\u017ftream":true,"c":{"stream":1}}'.encode(), [b'"c"', b'{"stream":1}']),
        (b'{"stream":false}', []),
    ],
    ids=["plain", "blanks", "escapes", "folded", "alone"],
)
def test_members_of_some_names_are_left_out(body: bytes, kept: list[bytes]) -> None:
    found = without(body, SHAPE)

    assert found is not None
    assert [bytes(one) for one in found] == kept


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"stream":true,"a":1,"stream":false}',
        b'{"a":12,"a":1}',
        b'{"a":1,"a":1,"b":1}',
        b'{"a":1} trailing',
        b"[1]",
        b"",
        b"--X\r\n",
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_body_that_could_be_taken_for_another_is_not_taken_apart(body: bytes) -> None:
    assert without(body, SHAPE) is None


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "stream"]), st.integers(0, 12)), max_size=5))
def test_no_member_is_lost_without_being_noticed(pairs: list[tuple[str, int]]) -> None:
    body = ("{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}").encode()

    found = without(body, SHAPE)

    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or not pairs:
        assert found is None
    else:
        members = [f'"{name}":{value}' for name, value in pairs if name != "stream"]
        assert found is not None
        texts = [bytes(one).decode() for one in found]
        assert [f"{texts[at]}:{texts[at + 1]}" for at in range(0, len(texts), 2)] == members


NAME = frozenset({"model"})


@pytest.mark.parametrize(
    "body,expected",
    [
        (b'{"model":"a","x":"a"}', b'{"model":"b:1","x":"a"}'),
        (b' {\t"x" : [ "model" ] ,\n "model" : "a"  }\n', None),
        (b'{"x":{"model":"a"},"model":"a"}', b'{"x":{"model":"a"},"model":"b:1"}'),
        (b'{"MODEL":"a","Model":"c"}', b'{"MODEL":"b:1","Model":"b:1"}'),
        (b'{"\\u006dodel":"\\u0061\\"}","y":1.50}', b'{"\\u006dodel":"b:1","y":1.50}'),
        (b'{"model":null,"MODEL":"a"}', b'{"model":null,"MODEL":"b:1"}'),
        (b'{"model":"","z":"\xff"}', b'{"model":"b:1","z":"\xff"}'),
        (
            b'{"n":12345678901234567890.0e5,"model":"a"}',
            b'{"n":12345678901234567890.0e5,"model":"b:1"}',
        ),
    ],
    ids=["plain", "blanks", "nested", "spellings", "escapes", "null", "no utf-8", "number"],
)
def test_only_the_name_is_written_anew(body: bytes, expected: bytes | None) -> None:
    made = rewritten(body, string_places(body, NAME), "b:1")

    assert made == (expected or body.replace(b' : "a"', b' : "b:1"'))


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"a"}',
        b'{"model":"a"} trailing',
        b'{"model":7,"x":"a"}',
        b'{"models":"a"}',
        b'["model","a"]',
        b"--X\r\n",
        b"",
    ],
)
def test_place_that_is_not_certain_is_none(body: bytes) -> None:
    assert string_places(body, NAME) == ()


@given(
    st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.lists(st.text()))), st.text()
)
def test_body_with_another_name_says_that_name_and_all_else_as_before(
    members: dict[str, object], name: str
) -> None:
    members = {key: value for key, value in members.items() if key.lower() != "model"}
    body = json.dumps(members | {"model": "a"}, ensure_ascii=False).encode("utf-8", "replace")

    made = rewritten(body, string_places(body, NAME), name)

    assert isinstance(made, bytes)
    assert json.loads(made) == json.loads(body) | {"model": name}


@pytest.mark.parametrize("size", [1, 100, 65536])
def test_zstd_in_pieces_gives_what_it_gives_whole(size: int) -> None:
    plain = json.dumps({"x": list(range(5000))}).encode()
    body = zstandard.compress(plain[:9000]) + zstandard.compress(plain[9000:])
    unpacking = Unpacking()

    pieces = [unpacking.plain(body[at : at + size]) for at in range(0, len(body), size)]

    assert b"".join(b"".join(each) for each in pieces) == plain == unpacked(body, ZSTD)


@pytest.mark.parametrize(
    "body",
    [
        zstandard.compress(b"x" * ((20 << 20) + 1)),
        zstandard.compress(b"") * 1001 + zstandard.compress(b"{}"),
        b"broken" * 100,
    ],
    ids=["much", "frames", "broken"],
)
def test_zstd_that_is_too_much_gives_nothing_more(body: bytes) -> None:
    unpacking = Unpacking()

    made = b"".join(unpacking.plain(body))

    assert made == b""
    assert unpacking.plain(zstandard.compress(b"{}")) == []
    assert unpacked(body, ZSTD) is None
