"""The comparer is trusted by the transparency test: what it must see, and what it must not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.live.compare import differences
from tests.live.exchange import Answer, Conversation, Header

TYPE: Header = (b"Content-Type", b"application/x-ndjson")
DATE: Header = (b"Date", b"Fri, 21 Aug 2026 10:00:00 GMT")
CHUNKED: Header = (b"Transfer-Encoding", b"chunked")
FIRST = b'{"model":"tiny","created_at":"2026-08-21T10:00:00.1Z","response":" The","done":false}\n'
LAST = b'{"model":"tiny","done":true,"total_duration":123,"eval_count":9,"eval_duration":45}\n'
STREAM = Answer(
    b"HTTP/1.1 200 OK", (TYPE, DATE, CHUNKED), "chunked", (FIRST, LAST), b"", clean=True
)


def talk(*answers: Answer, kept: bool = True) -> Conversation:
    return Conversation((), answers, kept)


@pytest.mark.parametrize(
    "other",
    [
        replace(STREAM, status_line=b"HTTP/1.1 200 Ok"),
        replace(STREAM, headers=(DATE, TYPE, CHUNKED)),
        replace(STREAM, headers=((b"content-type", TYPE[1]), DATE, CHUNKED)),
        replace(STREAM, headers=(TYPE, DATE, CHUNKED, (b"Server", b"x"))),
        replace(STREAM, headers=(TYPE, CHUNKED)),
        replace(STREAM, framing="close"),
        replace(STREAM, chunks=(FIRST + LAST,)),
        replace(STREAM, chunks=(FIRST[:9], FIRST[9:], LAST)),
        replace(STREAM, chunks=(FIRST.replace(b"The", b"A"), LAST)),
        replace(STREAM, chunks=(FIRST,)),
        replace(STREAM, trailer=b"X: y\r\n"),
        replace(STREAM, clean=False),
    ],
)
def test_change_that_a_client_could_see_is_a_difference(other: Answer) -> None:
    found = differences(talk(STREAM), talk(other))

    assert len(found) >= 1


def test_values_that_change_by_themselves_are_no_difference() -> None:
    later = replace(
        STREAM,
        headers=(TYPE, (b"Date", b"later"), CHUNKED, (b"X-Ollama-Mode", b"local")),
        chunks=(FIRST.replace(b"00.1Z", b"07.25Z"), LAST.replace(b"123", b"98765")),
    )

    found = differences(talk(STREAM), talk(later))

    assert found == []


def test_length_is_compared_without_the_volatile_part_of_the_body() -> None:
    whole = replace(STREAM, framing="length", chunks=(LAST,))
    short = replace(whole, headers=((b"Content-Length", b"%d" % len(LAST)),))
    longer = LAST.replace(b"123", b"12345")
    long = replace(short, headers=((b"Content-Length", b"%d" % len(longer)),), chunks=(longer,))

    found = differences(talk(short), talk(long))

    assert found == []


def test_connection_that_is_closed_and_answers_that_are_missing_are_differences() -> None:
    found = differences(talk(STREAM, STREAM), talk(STREAM, kept=False))

    assert len(found) == 2


def test_length_without_a_body_counts_where_no_time_can_be_in_it() -> None:
    def headed(length: int) -> Conversation:
        rows = ((b"Content-Length", b"%d" % length),)
        return talk(replace(STREAM, headers=rows, framing="none", chunks=()))

    assert len(differences(headed(20), headed(21))) == 1
    assert differences(headed(1261), headed(1262)) == []
