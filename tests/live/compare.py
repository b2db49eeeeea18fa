"""Says in what two conversations differ, once what differs anyway has been set aside.

Owns the list of volatile values (times, durations, made-up ids, our own headers). Everything
else counts, byte for byte: header order and case, framing, and for streams the boundaries of
the chunks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.live.exchange import Answer, Conversation, Header

OURS = (b"x-ollama-", b"x-request-id")
"""Headers a sidecar may add to any answer."""

SHORT = 200
"""Bytes of a body without a time in it."""

STREAMS = (b"application/x-ndjson", b"text/event-stream")

TIMES = b"created_at|modified_at|expires_at"
NUMBERS = b"total_duration|load_duration|prompt_eval_duration|eval_duration|created|completed_at"
VOLATILE = (
    (re.compile(rb'"(' + TIMES + rb')":"[^"]*"'), rb'"\1":"*"'),
    # A duration of nothing is left out of the object, so its comma goes with it.
    (re.compile(rb'"(?:' + NUMBERS + rb')":\d+(?:\.\d+)?,?'), rb""),
    (re.compile(rb'"created_at":\d+'), rb'"created_at":0'),
    (re.compile(rb"\b(chatcmpl|cmpl|msg|resp|req|call|fc|rs)[-_][0-9a-zA-Z_]+"), rb"\1-*"),
    (re.compile(rb'/[^"\s]*/(?:one|two)/models'), b"/models"),
    (re.compile(rb"\?ts=\d+"), b"?ts=0"),
    (re.compile(rb"(dial tcp [\d.:]+->|read tcp [\d.:]+->)"), rb"tcp "),
)


def differences(direct: Conversation, through: Conversation) -> list[str]:
    """Return one sentence for each difference; none means that a client cannot tell them apart."""
    return list(_of_conversations(direct, through))


def _of_conversations(direct: Conversation, through: Conversation) -> Iterator[str]:
    if direct.interim != through.interim:
        yield f"interim: {direct.interim!r} became {through.interim!r}"
    if direct.kept != through.kept:
        yield f"connection kept: {direct.kept} became {through.kept}"
    if len(direct.answers) != len(through.answers):
        yield f"answers: {len(direct.answers)} became {len(through.answers)}"
    for one, other in zip(direct.answers, through.answers, strict=False):
        yield from _of_answers(one, other)


def _of_answers(direct: Answer, through: Answer) -> Iterator[str]:
    pairs = {
        "status line": (direct.status_line, through.status_line),
        "headers": (_headers(direct), _headers(through)),
        "framing": (direct.framing, through.framing),
        "clean end": (direct.clean, through.clean),
        "trailer": (direct.trailer, through.trailer),
        "body": (steady(direct.body), steady(through.body)),
    }
    if _streams(direct):
        pairs["chunks"] = (_chunks(direct), _chunks(through))
    for name, (one, other) in pairs.items():
        if one != other:
            yield f"{name}: {one!r} became {other!r}"


def steady(body: bytes) -> bytes:
    """Return the body with its volatile values replaced."""
    for pattern, replacement in VOLATILE:
        body = pattern.sub(replacement, body)
    return body


def _streams(answer: Answer) -> bool:
    return answer.framing == "chunked" and answer.header(b"content-type").startswith(STREAMS)


def _chunks(answer: Answer) -> list[bytes]:
    return [steady(chunk) for chunk in answer.chunks]


def _headers(answer: Answer) -> list[Header]:
    return [
        (key, _steady_value(key.lower(), value, answer))
        for key, value in answer.headers
        if not key.lower().startswith(OURS)
    ]


def _steady_value(key: bytes, value: bytes, answer: Answer) -> bytes:
    if key == b"date":
        return b"*"
    if key == b"content-length" and answer.body:
        return str(len(steady(answer.body))).encode()
    if key == b"content-length" and int(value) > SHORT:
        # HEAD of a list: the times in it vary in length.
        return b"*"
    return value
