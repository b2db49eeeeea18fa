"""Heads of replies: what is remembered of them, and what never is."""

import pytest

from ollama_wrap.errors import BadReply
from ollama_wrap.wire.base import Framing
from ollama_wrap.wire.replies import Replies, form

MONDAY = b"Mon, 16 Nov 2026 10:00:00 GMT"
TUESDAY = b"Tue, 17 Nov 2026 10:00:00 GMT"


def head(date: bytes = MONDAY, length: bytes = b"2", more: bytes = b"") -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Date: %b\r\nContent-Length: %b\r\n%b\r\n" % (date, length, more)
    )


def test_heads_that_differ_in_date_and_length_alone_are_one() -> None:
    replies = Replies()
    first = replies.read(head())

    again = replies.read(head(TUESDAY, b"31"))

    assert again is first
    assert (replies.date, replies.digits) == (TUESDAY, b"31")


@pytest.mark.parametrize(
    "other",
    [
        head(more=b"X-A: b\r\n"),
        head().replace(b"200 OK", b"200 Fine"),
        head().replace(b"HTTP/1.1", b"HTTP/1.0"),
        head().replace(b"Date: ", b"date: "),
        head().replace(b"json", b"x-ndjson"),
        head(date=b"today"),
        head(date=b""),
    ],
)
def test_heads_that_differ_in_more_are_two(other: bytes) -> None:
    replies = Replies()
    first = replies.read(head())

    second = replies.read(other)

    assert second is not first
    assert replies.read(head()).headers == first.headers


@pytest.mark.parametrize(
    "broken",
    [
        head(length=b""),
        head(length=b"+2"),
        head(length=b"2 2"),
        head(length=b"9" * 30),
        head(date=b"Mon, 16 Nov 2026 10:00\x00 00 GMT"),
        head(more=b"Content-Length: 3\r\n"),
        head(more=b"Transfer-Encoding: chunked\r\n"),
        head(more=b"X A: b\r\n"),
    ],
)
def test_a_broken_head_is_refused_also_when_a_sound_one_like_it_is_known(broken: bytes) -> None:
    replies = Replies()
    replies.read(head())

    with pytest.raises(BadReply):
        replies.read(broken)


def test_a_coding_nobody_here_knows_is_refused() -> None:
    with pytest.raises(BadReply, match="coding"):
        Replies().read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n")


def test_form_is_filled_with_what_differs() -> None:
    replies = Replies()
    known = replies.read(head(more=b"X-Percent: 100%b\r\n"))
    fields = [*known.headers, (b"X-Ollama-Node", b"a"), (b"X-Request-ID", b"r-1")]

    made = form(known, fields, Framing.LENGTH)

    assert made is not None
    assert made.filled(TUESDAY, b"31", "r-2") == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Date: %b\r\nContent-Length: 31\r\nX-Percent: 100%%b\r\n"
        b"X-Ollama-Node: a\r\nX-Request-ID: r-2\r\n\r\n" % TUESDAY
    )


def test_form_of_chunks_says_so_last() -> None:
    known = Replies().read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    made = form(known, [(b"X-Request-ID", b"r-1")], Framing.CHUNKED)

    assert made is not None
    assert made.filled(b"", b"", "r-2").endswith(
        b"X-Request-ID: r-2\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


def test_no_form_where_one_value_would_fill_two_gaps() -> None:
    known = Replies().read(head())
    twice = [(b"X-Request-ID", b"theirs"), (b"X-Request-ID", b"ours")]

    made = form(known, twice, Framing.LENGTH)

    assert made is None
