"""Requests that nobody has thought of: ordinary ones, oddly but legally written, from a fixed seed.

Owns the mutations. Each case is the same in every run, so that what once differed can be
played again by its name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from tests.live.cases.base import HOST, Case, ask, chunked, send
from tests.live.exchange import Script

TALK: dict[str, object] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
ASKED: dict[str, object] = {"model": "tiny", "prompt": "hi"}


@dataclass(frozen=True, slots=True)
class Plain:
    """An ordinary request, before anything odd is done to it."""

    method: str
    path: str
    body: bytes = b""


def _plain(path: str, body: dict[str, object], method: str = "POST") -> Plain:
    return Plain(method, path, json.dumps(body).encode())


PLAIN = (
    Plain("GET", "/api/version"),
    Plain("GET", "/api/tags"),
    Plain("GET", "/"),
    Plain("GET", "/v1/models"),
    Plain("GET", "/v1/models/tiny"),
    Plain("GET", "/nope"),
    _plain("/api/show", {"model": "tiny"}),
    _plain("/api/generate", ASKED | {"stream": False}),
    _plain("/api/generate", ASKED),
    _plain("/api/chat", TALK),
    _plain("/api/embed", {"model": "embedder", "input": "hi"}),
    _plain("/v1/chat/completions", TALK),
    _plain("/v1/chat/completions", TALK | {"stream": True}),
    _plain("/api/generate", {"model": "nope", "prompt": "hi"}),
    _plain("/api/copy", {"source": "nope", "destination": "other"}),
    _plain("/api/delete", {"model": "nope"}, "DELETE"),
    Plain("POST", "/api/chat", b"{"),
    Plain("POST", "/api/tags", b"{}"),
)
QUERIES = (
    "",
    "?",
    "??",
    "?a=b&a=c&&",
    "?%zz",
    "?%00",
    "?a[]=1;b=2",
    "?model=other&stream=true",
    "?x=" + "y" * 2000,
    "?\u00e4",
    "?a=b#c",
    "?/../..//",
    "?http://example.com/",
)
FIELDS = (
    "X-Empty:",
    "X-Tab:\ta\tb\t",
    "X-Wide:   a   ",
    "X-Latin: \u00e4\u00ff",
    'X-Quoted: "a, \\"b\\""; q=0.1',
    "X-Commas: ,,a,,",
    "X-Long: " + "a" * 8000,
    "X-Twice: 1",
    "x-twice: 2",
    "!#$%&'*+-.^_`|~: token",
    "1: 2",
    "Content_Length: 9",
    "X_Forwarded_For: 9.9.9.9",
    "Accept: */*;q=0.8, text/*, nonsense",
    "Accept-Encoding: identity;q=0, *;q=0",
    "Accept-Charset: utf-7",
    "User-Agent: ",
    "Cache-Control: no-store, max-age=0",
    "If-Modified-Since: yesterday",
    "Range: bytes=-1",
    "Authorization: Basic ???",
    "Authorization: Bearer",
    "Content-Encoding: identity",
    'Content-Type: text/plain; charset="utf-16"',
    "Content-Type: application/json;;",
    "Referer: javascript:void(0)",
    "From: a@b",
    "Max-Forwards: 0",
    "Priority: u=0, i",
    "Sec-Fetch-Site: cross-site",
    "Connection: keep-alive, X-Twice",
    "Connection: ",
    "Keep-Alive: timeout=1, max=1",
    "Pragma: no-cache",
    "Warning: 199 - x",
    "Traceparent: 00-0-0-00",
    "X-Stainless-Timeout: 1",
    "X-Http-Method: DELETE",
)
# Stock frames an answer of more than 2,048 bytes in another way, and the length of a time
# varies: names for which `show` comes near to that length are of no use here.
WEIRD_NAMES = (
    "a",
    "UPPER-Case-Name",
    "dots.and-dashes_1",
    "tagged:V1.2-beta_3",
    "someone/thing",
    "someone/Thing:latest",
    "example.com/someone/thing:x",
    "example.com:5000/some.one/thing:1",
    "0123456789012345",
    "a" * 80,
)


def _mutated(seed: int) -> Case:
    dice = Random(seed)
    plain = dice.choice(PLAIN)
    script = _written(dice, plain)
    return Case(f"odd {seed:02} {plain.method} {plain.path}", script)


def _written(dice: Random, plain: Plain) -> Script:
    target = plain.path + dice.choice(QUERIES)
    rows = [f"Host: {HOST}", *dice.sample(FIELDS, dice.randrange(0, 9))]
    body = plain.body
    if body and dice.random() < 0.5:
        rows.append("Transfer-Encoding: chunked")
        body = _chunks(dice, body)
    elif body or dice.random() < 0.2:
        rows.append("Content-Length:" + " " * dice.randrange(3) + str(len(body)))
    dice.shuffle(rows)
    lines = [f"{plain.method} {target} HTTP/1.1", *(_cased(dice, row) for row in rows)]
    whole = "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body
    return _segmented(dice, whole)


def _cased(dice: Random, row: str) -> str:
    """Write the name of a field in another case."""
    name, colon, value = row.partition(":")
    change = dice.choice((str.lower, str.upper, str.swapcase, str.title, str))
    return change(name) + colon + value


def _chunks(dice: Random, body: bytes) -> bytes:
    made = b""
    while body:
        size = dice.choice((1, 2, 3, 17, 4096))
        part, body = body[:size], body[size:]
        written = dice.choice((b"%x", b"%X", b"0%x", b"%x;a", b'%x;a="b"')) % len(part)
        made += written + b"\r\n" + part + b"\r\n"
    return made + b"0\r\n\r\n"


def _segmented(dice: Random, whole: bytes) -> Script:
    """Cut a request into a few packets, wherever it may be."""
    cuts = sorted(dice.sample(range(1, len(whole)), dice.randrange(0, 4)))
    parts = [whole[at:end] for at, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return Script(parts[0], pieces=tuple(parts[1:]))


def _sequence(seed: int) -> Case:
    """Different requests on one connection, each after the answer to the one before."""
    dice = Random(1000 + seed)
    first, *others = (_written(dice, dice.choice(PLAIN)) for _ in range(6))
    return Case(f"odd sequence {seed}", first, then=(*others, ask("HEAD", "/")))


def _pipelined(seed: int) -> Case:
    """Different requests on one connection, all sent at once."""
    dice = Random(2000 + seed)
    written = [_written(dice, dice.choice(PLAIN)) for _ in range(5)]
    sent = b"".join(one.sent + b"".join(one.pieces) for one in written)
    return Case(f"odd pipelined {seed}", Script(sent, answers=len(written)))


def _named(name: str) -> Case:
    """A model under an odd name: made, used in every dialect, looked at, removed."""
    model: dict[str, object] = {"model": name}
    return Case(
        f"odd name {name}",
        send("/api/copy", {"source": "tiny", "destination": name}),
        then=(
            send("/api/show", model),
            send("/api/generate", model | {"prompt": "hi"}),
            chunked("/v1/chat/completions", json.dumps(TALK | model).encode(), size=9),
            send("/v1/messages", TALK | model | {"max_tokens": 3}),
            ask("GET", f"/v1/models/{name}"),
            ask("GET", "/v1/models/" + name.replace("/", "%2F").replace(":", "%3a")),
            send("/api/generate", model | {"keep_alive": 0}),
            send("/api/delete", model, method="DELETE"),
            send("/api/show", model),
        ),
    )


CASES = (
    *(_mutated(seed) for seed in range(40)),
    *(_sequence(seed) for seed in range(8)),
    *(_pipelined(seed) for seed in range(8)),
    *(_named(name) for name in WEIRD_NAMES),
)
