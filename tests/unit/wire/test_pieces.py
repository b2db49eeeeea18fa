"""Chunked bodies of replies, in segments of any size."""

import pytest

from ollama_wrap.errors import BadReply
from ollama_wrap.wire.pieces import TORN, Pieces


def framed(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)


LAST = b"0\r\n\r\n"
LONG = bytes(range(256)) * 1000


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000, 10**6])
def test_chunks_come_out_as_they_were_framed_however_they_were_cut(step: int) -> None:
    body = framed(b"a", b"\r\n", b"x" * 5000) + b"5;name=value\r\nhello\r\n" + LAST
    pieces, got, rest = Pieces(), list[bytes](), None

    for at in range(0, len(body), step):
        rest = pieces.feed(body[at : at + step], got)

    assert got == [b"a", b"\r\n", b"x" * 5000, b"hello"]
    assert rest == b""


@pytest.mark.parametrize("step", [1500, 70_000, 10**6])
def test_long_chunk_is_handed_on_in_parts_of_its_own(step: int) -> None:
    body = framed(b"before", LONG, b"after") + LAST
    pieces, got, rest = Pieces(), list[bytes](), None

    for at in range(0, len(body), step):
        rest = pieces.feed(body[at : at + step], got)

    assert rest == b""
    assert got[0] == b"before"
    assert got[-1] == b"after"
    assert b"".join(got[1:-1]) == LONG
    assert all(len(part) >= TORN for part in got[1:-2])


def test_what_follows_the_body_is_handed_back() -> None:
    got: list[bytes] = []

    rest = Pieces().feed(framed(b"a") + b"0\r\nTrailer: dropped\r\n\r\nmore", got)

    assert (got, rest) == ([b"a"], b"more")


@pytest.mark.parametrize(
    "broken",
    [
        b"xyz\r\n",
        b"\r\n",
        b"-1\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b"1_0\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"2\r\nabc\r\n",
        b"3\nabc\n",
        b"3;a\x00b\r\nabc\r\n",
        b"f" * 17 + b"\r\n",
        b"a" * 5000,
        b"%x\r\n" % len(LONG) + LONG + b"xx",
        b"0\r\nnot a trailer\r\n\r\n",
        b"0\r\n" + b"A: " + b"b" * 70_000,
    ],
)
def test_framing_that_others_would_read_otherwise_is_refused(broken: bytes) -> None:
    pieces, got = Pieces(), list[bytes]()

    with pytest.raises(BadReply):
        pieces.feed(framed(b"good") + broken + b"\r\n\r\n", got)

    assert got[0] == b"good"


@pytest.mark.parametrize(
    "begun, rest",
    [
        (b"5\r\nhel", b"hel"),
        (b"5\r\nhello", b"hello"),
        (b"5", b""),
        (b"0\r\nTrai", b""),
        (b"%x\r\n" % len(LONG) + LONG[:10], LONG[:10]),
    ],
)
def test_a_chunk_that_will_not_end_gives_what_came_of_it(begun: bytes, rest: bytes) -> None:
    pieces, got = Pieces(), list[bytes]()
    pieces.feed(begun, got)

    left = pieces.rest()

    assert got == []
    assert left.rstrip(b"\r\n") == rest
