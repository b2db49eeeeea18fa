"""How requests may be framed, and how connections live on."""

from __future__ import annotations

import json

from tests.live.cases.base import HOST, Case, ask, chunked, get, head, send
from tests.live.exchange import Script

STREAMED = json.dumps({"model": "tiny", "prompt": "hi"}).encode()
WHOLE = json.dumps({"model": "tiny", "prompt": "hi", "stream": False}).encode()
VERSION = head("GET", "/api/version") + b"\r\n"
LENGTH = f"Content-Length: {len(WHOLE)}"


def _old(request_line: bytes, body: bytes = b"", *rows: bytes) -> Script:
    """Make a request of HTTP/1.0."""
    if body:
        rows = (*rows, b"Content-Length: %d" % len(body))
    return Script(
        request_line + b" HTTP/1.0\r\n" + b"".join(r + b"\r\n" for r in rows) + b"\r\n" + body
    )


def _raw(head_bytes: bytes) -> Script:
    return Script(head_bytes + b"\r\n")


def _expecting(target: str, *headers: str, host: str = HOST) -> Script:
    rows = (*headers, LENGTH, "Expect: 100-continue")
    return Script(head("POST", target, *rows, host=host) + b"\r\n", after_continue=WHOLE)


def _in_pieces() -> Script:
    """Bytes of head and body that come one packet at a time."""
    whole = send("/api/generate", WHOLE).sent
    return Script(whole[:9], pieces=tuple(whole[at : at + 23] for at in range(9, len(whole), 23)))


HOST_ROW = f"Host: {HOST}\r\n".encode()
HOST_OLD = f"Host: {HOST}".encode()
CLOSE = "Connection: close"

CASES = (
    Case("1.0 get", _old(b"GET /api/version", b"", HOST_OLD)),
    Case("1.0 without host", _old(b"GET /api/version")),
    Case("1.0 head", Script(_old(b"HEAD /", b"", HOST_OLD).sent, head_only=True)),
    Case("1.0 keep-alive", _old(b"GET /api/version", b"", HOST_OLD, b"Connection: keep-alive")),
    Case("1.0 tags", _old(b"GET /api/tags", b"", HOST_OLD)),
    Case("1.0 stream", _old(b"POST /api/generate", STREAMED, HOST_OLD)),
    Case(
        "1.0 stream keep-alive",
        _old(b"POST /api/generate", STREAMED, HOST_OLD, b"Connection: keep-alive"),
    ),
    Case("1.0 whole", _old(b"POST /api/generate", WHOLE, HOST_OLD)),
    Case("1.0 error", _old(b"POST /api/generate", b"{", HOST_OLD)),
    Case("1.0 redirect", _old(b"GET //api/tags", b"", HOST_OLD)),
    get("close get", "/api/version", CLOSE),
    Case("close head", ask("HEAD", "/", CLOSE)),
    get("close unknown", "/nope", CLOSE),
    Case("close stream", send("/api/generate", STREAMED, CLOSE)),
    Case("close whole", send("/api/generate", WHOLE, CLOSE)),
    get("connection keep-alive", "/api/version", "Connection: keep-alive"),
    get("connection names a header", "/api/version", "Connection: x-thing", "X-Thing: 1"),
    get("connection te", "/api/version", "Connection: TE", "TE: trailers"),
    get("proxy-connection", "/api/version", "Proxy-Connection: keep-alive"),
    Case("chunked", chunked("/api/generate", WHOLE)),
    Case("chunked stream", chunked("/api/chat", json.dumps({"model": "tiny"}).encode(), size=1)),
    Case("chunked one", chunked("/api/generate", WHOLE, size=4096)),
    Case("chunked empty", chunked("/api/generate", b"")),
    Case(
        "chunked extension",
        Script(chunked("/api/generate", WHOLE).sent.replace(b"7\r\n", b"7;a=b\r\n", 1)),
    ),
    Case(
        "chunked trailer", Script(chunked("/api/generate", WHOLE).sent[:-2] + b"X-End: 1\r\n\r\n")
    ),
    Case(
        "chunked upper",
        Script(chunked("/api/generate", WHOLE).sent.replace(b": chunked", b": CHUNKED")),
    ),
    Case(
        "chunked on get", Script(chunked("/api/version", b"abc").sent.replace(b"POST", b"GET", 1))
    ),
    Case("length none", ask("POST", "/api/generate")),
    Case("length zero", send("/api/generate", b"")),
    Case("length on get", send("/api/version", b"abc", method="GET")),
    Case("length on unknown", send("/nope", b"abc" * 100)),
    Case("length large on unknown", send("/nope", b"abc" * 100_000)),
    Case("in pieces", _in_pieces()),
    Case("expect continue", _expecting("/api/generate")),
    Case(
        "expect continue, upper",
        Script(
            head("POST", "/api/generate", LENGTH, "EXPECT: 100-Continue") + b"\r\n",
            after_continue=WHOLE,
        ),
    ),
    Case("expect continue on v1", _expecting("/v1/completions")),
    Case("expect continue on unknown", _expecting("/nope")),
    Case("expect continue, wrong method", _expecting("/api/tags")),
    Case("expect continue, foreign host", _expecting("/api/generate", host="example.com")),
    Case("expect continue, foreign origin", _expecting("/api/chat", "Origin: http://evil.example")),
    Case(
        "expect something",
        _raw(head("POST", "/api/generate", "Content-Length: 0", "Expect: wonders")),
    ),
    get(
        "upgrade h2c",
        "/api/version",
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABk",
    ),
    get(
        "upgrade websocket",
        "/api/version",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==",
        "Sec-WebSocket-Version: 13",
    ),
    Case("upgrade post", send("/api/generate", WHOLE, "Connection: Upgrade", "Upgrade: h2c")),
    Case("http2 preface", Script(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    Case("http 1.2", Script(b"GET /api/version HTTP/1.2\r\n" + HOST_ROW + b"\r\n")),
    Case("http 9.9", Script(b"GET /api/version HTTP/9.9\r\n" + HOST_ROW + b"\r\n")),
    Case("pipelined gets", Script(VERSION * 3, answers=3)),
    Case("pipelined post and get", Script(send("/api/generate", WHOLE).sent + VERSION, answers=2)),
    Case(
        "pipelined stream and get",
        Script(send("/api/generate", STREAMED).sent + VERSION, answers=2),
    ),
    Case("pipelined unknown and get", Script(send("/nope", b"{}").sent + VERSION, answers=2)),
    Case("pipelined error and get", Script(send("/api/chat", b"{").sent + VERSION, answers=2)),
    Case("half close", Script(VERSION, half_close=True)),
    Case("line end before the request", Script(b"\r\n" + VERSION)),
    Case("bare line feeds", Script(VERSION.replace(b"\r\n", b"\n"))),
    Case("folded header", _raw(head("GET", "/api/version", "X-Long: a\r\n b"))),
    Case("header without space", _raw(head("GET", "/api/version", "X-A:b"))),
    Case("header with space before colon", _raw(head("GET", "/api/version", "X-A : b"))),
    Case("header empty", _raw(head("GET", "/api/version", "X-A:"))),
    Case("header latin-1", Script(VERSION[:-2] + b"X-A: \xe4\r\n\r\n")),
    Case("header nul", Script(VERSION[:-2] + b"X-A: \0\r\n\r\n")),
    Case("header odd name", Script(VERSION[:-2] + b"X(A): b\r\n\r\n")),
    get("header large", "/api/version", "X-A: " + "b" * 20_000),
    get("headers many", "/api/version", *(f"X-{number}: 1" for number in range(150))),
    get("accept-encoding", "/api/tags", "Accept-Encoding: gzip, br, zstd"),
    get("cookie", "/api/version", "Cookie: a=b"),
    get("range", "/api/tags", "Range: bytes=0-3", "If-None-Match: *"),
    get(
        "forwarded",
        "/api/version",
        "X-Forwarded-For: 9.9.9.9",
        "Forwarded: for=9.9.9.9",
        "Via: 1.1 x",
    ),
    get("authorization", "/api/version?ts=1", "Authorization: Bearer ollama", "x-api-key: ollama"),
    get("method override", "/api/version", "X-HTTP-Method-Override: POST"),
    Case("request line garbage", Script(b"nonsense\r\n\r\n")),
    Case("request line two spaces", Script(VERSION.replace(b"GET ", b"GET  ", 1))),
    Case("request line without version", Script(b"GET /api/version\r\n\r\n")),
)
