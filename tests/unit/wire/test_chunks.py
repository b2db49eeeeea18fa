"""Chunked bodies: taken apart whole however they are cut, refused when others would disagree."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ollama_wrap.wire.chunks import LONGEST, MAX_TRAILERS, Chunks

NEXT = b"GET / HTTP/1.1\r\n"


def chunked(parts: list[bytes], trailers: bytes = b"", extension: bytes = b"") -> bytes:
    lines = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts]
    return b"".join(lines) + b"0" + extension + b"\r\n" + trailers + b"\r\n"


def taken(segments: list[bytes]) -> tuple[bytes, bytes | None]:
    """The body, and what followed it in the segment of its end."""
    chunks = Chunks()
    body = b""
    for segment in segments:
        part, rest = chunks.feed(segment)
        body += part
        if rest is not None:
            return body, rest
    return body, None


@given(
    parts=some.lists(some.binary(min_size=1, max_size=40), max_size=6),
    cuts=some.sets(some.integers(1, 400), max_size=12),
)
def test_body_is_the_same_however_the_segments_fall(parts: list[bytes], cuts: set[int]) -> None:
    whole = chunked(parts, b"X-Sum: 1\r\n", b";name=value")
    at = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]

    body, rest = taken([whole[a:b] for a, b in itertools.pairwise(at)])

    assert (body, rest) == (b"".join(parts), b"")


def test_body_is_the_same_byte_by_byte() -> None:
    whole = chunked([b"hello", b"\r\n0\r\n\r\n", b"x" * 300])

    body, rest = taken([whole[at : at + 1] for at in range(len(whole))])

    assert (body, rest) == (b"hello\r\n0\r\n\r\n" + b"x" * 300, b"")


def test_what_follows_the_body_is_handed_back() -> None:
    assert taken([chunked([b"abc"]) + NEXT]) == (b"abc", NEXT)


def test_body_without_its_last_chunk_has_not_ended() -> None:
    assert taken([b"3\r\nabc\r\n"]) == (b"abc", None)


def test_many_small_chunks_of_one_segment_are_one_part() -> None:
    part, _ = Chunks().feed(b"1\r\nx\r\n" * 1000)

    assert part == b"x" * 1000


@pytest.mark.parametrize(
    "size",
    [
        b"0x3",
        b"+3",
        b"-3",
        b"0_3",
        b" 3",
        b"3 ",
        b"g",
        b"",
        b"0" * 16 + b"3",
        b"f" * 17,
        b"3;a\x00",
        b"3;\r",
        b"3\t",
    ],
)
def test_size_that_others_may_read_otherwise_is_refused(size: bytes) -> None:
    with pytest.raises(ValueError, match="size"):
        Chunks().feed(size + b"\r\nabc\r\n0\r\n\r\n")


@pytest.mark.parametrize("rest", [b"\n", b"\r\n\n", b"\r\rab\n"])
def test_bare_line_ends_are_refused(rest: bytes) -> None:
    with pytest.raises(ValueError, match=r"size|chunk"):
        Chunks().feed(b"3" + rest + b"abc\n0\n\n")


@pytest.mark.parametrize("rest", [b"d\r\n0\r\n\r\n", b"d0", b"0\r\n\r\n", b"\n0\r\n\r\n"])
def test_chunk_that_is_longer_than_its_size_is_refused(rest: bytes) -> None:
    with pytest.raises(ValueError, match="chunk"):
        Chunks().feed(b"3\r\nabc" + rest + b"...")


@pytest.mark.parametrize(
    "trailer", [b"no colon\r\n", b": x\r\n", b"a b: x\r\n", b"a: \x00\r\n", b"a: b\n", b" a: b\r\n"]
)
def test_line_that_is_no_trailer_is_refused(trailer: bytes) -> None:
    with pytest.raises(ValueError, match="trailer"):
        Chunks().feed(chunked([b"abc"], trailer))


def test_line_of_framing_has_a_longest() -> None:
    chunks = Chunks()
    chunks.feed(b"3;" + b"a" * (LONGEST - 2))

    with pytest.raises(ValueError, match="too long"):
        chunks.feed(b"a")


def test_trailers_have_a_most() -> None:
    chunks = Chunks()
    line = b"X: " + b"a" * 1000 + b"\r\n"
    chunks.feed(b"0\r\n" + line * (MAX_TRAILERS // len(line)))

    with pytest.raises(ValueError, match="trailer"):
        chunks.feed(line)
