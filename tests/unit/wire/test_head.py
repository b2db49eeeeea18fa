"""Heads of requests: what is read of them, and which are refused before anybody acts on them."""

import pytest

from ollama_wrap.wire.head import Fault, Head, Reader, Sizes, own_path, unfinished
from tests.fakes.heads import ACCEPTED, OTHERWISE, REFUSED, head

SIZES = Sizes()


def fault(raw: bytes, sizes: Sizes = SIZES) -> Fault | None:
    return Reader({}).read(raw, sizes)


def read(raw: bytes, reader: Reader | None = None) -> tuple[Head, int]:
    reader = reader or Reader({})
    assert reader.read(raw, SIZES) is None
    assert reader.head is not None
    return reader.head, reader.length


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_head_that_is_read_in_two_ways_is_a_400(raw: bytes) -> None:
    found = fault(raw)

    assert found is not None
    assert found.status == 400


@pytest.mark.parametrize("raw, status", OTHERWISE.values(), ids=OTHERWISE)
def test_head_that_is_too_much_is_refused_with_its_own_status(raw: bytes, status: int) -> None:
    found = fault(raw)

    assert found is not None
    assert found.status == status


@pytest.mark.parametrize("raw", ACCEPTED.values(), ids=ACCEPTED)
def test_head_that_stock_takes_is_taken(raw: bytes) -> None:
    assert fault(raw) is None


def test_target_and_fields_are_as_they_came() -> None:
    found, length = read(head(b"x-a: 1", b"X-A: 2", b"X-B:   c  ", line=b"GET /a?b=%20 HTTP/1.1"))

    assert (found.method, found.target) == ("GET", b"/a?b=%20")
    assert found.headers == [(b"Host", b"a"), (b"x-a", b"1"), (b"X-A", b"2"), (b"X-B", b"c")]
    assert found.fields[b"x-a"] == b"1"
    assert (length, found.sized, found.chunked) == (0, None, False)


def test_blanks_around_a_value_are_no_part_of_it() -> None:
    found, length = read(
        head(b"Content-Length:\t3 \t", b"Expect:  100-continue ", host=b"Host: a ")
    )

    assert found.fields == {b"host": b"a", b"expect": b"100-continue"}
    assert length == 3


@pytest.mark.parametrize("target", [b"/caf\xc3\xa9", b"/\xff?\x80", b"/%e9\xe9"])
def test_target_of_8_bits_is_kept(target: bytes) -> None:
    found, _ = read(head(line=b"GET " + target + b" HTTP/1.1"))

    assert found.target == target


def test_fields_know_the_length_and_not_the_parser() -> None:
    found, length = read(head(b"X-A: 1", b"content-LENGTH: 12", b"X-B: 2"))

    assert (length, found.sized) == (12, (2, b"content-LENGTH"))
    assert found.headers == [(b"Host", b"a"), (b"X-A", b"1"), (b"X-B", b"2")]


def test_chunked_body_has_no_length() -> None:
    found, length = read(head(b"Transfer-Encoding: Chunked"))

    assert (length, found.chunked) == (-1, True)


@pytest.mark.parametrize(
    "line, field, alive",
    [
        (b"GET /x HTTP/1.1", b"X: a", True),
        (b"GET /x HTTP/1.1", b"Connection: close", False),
        (b"GET /x HTTP/1.1", b"Connection: keep-alive, CLOSE", False),
        (b"GET /x HTTP/1.0", b"X: a", False),
        (b"GET /x HTTP/1.0", b"Connection: keep-alive", True),
        (b"GET /x HTTP/1.1", b"Connection: Upgrade\r\nUpgrade: h2c", True),
    ],
)
def test_client_says_whether_its_connection_stays(line: bytes, field: bytes, alive: bool) -> None:
    found, _ = read(head(field, line=line))

    assert found.alive is alive
    assert found.http11 is line.endswith(b"1")


# one reader, one head after the other


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"foo"])
def test_wish_for_another_protocol_leaves_no_trace_in_the_next_head(upgrade: bytes) -> None:
    reader = Reader({})
    wish = head(b"Connection: Upgrade", b"Upgrade: " + upgrade, b"Content-Length: 5")

    first = read(wish, reader)
    second = read(head(b"Content-Length: 7"), reader)

    assert (first[1], second[1]) == (5, 7)


def test_heads_are_read_one_after_the_other() -> None:
    reader = Reader({})
    raws = [head(b"Content-Length: %d" % size) for size in (3, 0, 12)]
    raws += [head(line=b"GET /y HTTP/1.1"), head(b"Transfer-Encoding: chunked"), raws[0]]

    assert [read(raw, reader)[1] for raw in raws] == [3, 0, 12, 0, -1, 3]


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
def test_head_that_differs_in_its_length_alone_is_known(name: bytes) -> None:
    known: dict[bytes, Head] = {}
    first, _ = read(head(name + b": 3", b"X-A: 1"), Reader(known))

    again, length = read(head(name + b": 1234", b"X-A: 1"), Reader(known))

    assert (again.headers, again.fields, again.sized) == (first.headers, first.fields, first.sized)
    assert length == 1234


@pytest.mark.parametrize(
    "value", [b"+3", b"-1", b"0x3", b"", b"3 3", b"3, 3", b"1_0", b"9" * 19, b"3\x00", b"\xb2"]
)
def test_known_head_does_not_excuse_a_bad_length(value: bytes) -> None:
    known: dict[bytes, Head] = {}
    read(head(b"Content-Length: 3"), Reader(known))

    assert Reader(known).read(head(b"Content-Length: " + value), SIZES) is not None


def test_known_head_does_not_excuse_a_second_length() -> None:
    known: dict[bytes, Head] = {}
    read(head(b"Content-Length: 3"), Reader(known))
    read(head(b"content-length: 3"), Reader(known))

    for both in ((b"content-length: 4", b"Content-Length: 3"), (b"Content-Length: 3",) * 2):
        assert Reader(known).read(head(*both), SIZES) is not None


# absolute form


@pytest.mark.parametrize(
    "target, host, path",
    [
        (b"http://a:1/x?y", b"a:1", b"/x?y"),
        (b"HTTP://A/x", b"a", b"/x"),
        (b"http://a", b"a", b"/"),
        (b"http://evil/x", b"a", None),
        (b"https://a/x", b"a", None),
        (b"http://a@evil/x", b"a", None),
        (b"http:///x", b"", None),
    ],
)
def test_absolute_target_is_its_path_when_it_names_us(
    target: bytes, host: bytes, path: bytes | None
) -> None:
    assert own_path(target, host) == path


def test_absolute_target_that_names_us_becomes_its_path() -> None:
    found, _ = read(head(line=b"GET http://a/api/tags?x HTTP/1.1"))

    assert found.target == b"/api/tags?x"


# before a head has ended


def test_sound_head_has_no_fault_at_any_of_its_bytes() -> None:
    raw = head(b"X-A: b", b"Content-Length: 3")

    for at in range(1, len(raw) - 3):
        assert unfinished(raw[:at], at - 1, SIZES) is None


@pytest.mark.parametrize(
    "raw, status",
    [
        (b"\x16\x03\x01\x02\x00", 400),
        (b"get /x", 400),
        (b"GET /x HTTP/1.1\nHost: a\n\n", 400),
        (b"GET /x HTTP/1.1\r\nX: a\rb", 400),
        (b"GET /x\x00", 400),
        (b"GET /" + b"a" * 8300, 414),
        (b"GET /x HTTP/1.1\r\nX: " + b"a" * 65536, 431),
    ],
)
def test_fault_of_a_head_is_seen_before_its_end(raw: bytes, status: int) -> None:
    found = unfinished(raw, 0, SIZES)

    assert found is not None
    assert found.status == status


def test_only_new_bytes_of_a_head_are_looked_at() -> None:
    raw = b"GET /x HTTP/1.1\r\nX: a\r"

    assert unfinished(raw + b"\n", len(raw), SIZES) is None
    assert unfinished(raw + b"b", len(raw), SIZES) == Fault(400)


# what is said


def test_refusal_is_framed_by_the_close_as_go_writes_it() -> None:
    assert Fault(400).reply == (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Connection: close\r\n\r\n400 Bad Request"
    )
    assert Fault(400, "malformed Host header").reply.endswith(
        b"\r\n\r\n400 Bad Request: malformed Host header"
    )


def test_refusal_for_want_of_room_says_when_to_come_again() -> None:
    assert b"\r\nRetry-After: 1\r\n" in Fault(503, "too many connections").reply


def test_unknown_expectation_has_an_empty_reply_with_a_date() -> None:
    reply = Fault(417).reply

    assert reply.startswith(b"HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nDate: ")
    assert reply.endswith(b"\r\nContent-Length: 0\r\n\r\n")
