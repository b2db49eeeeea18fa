"""Where a request begins and ends is agreed by everybody, or it is refused and nobody is asked."""

import asyncio

import pytest

from tests.fakes.heads import ACCEPTED, OTHERWISE, REFUSED, head
from tests.wire.stage import (
    GENERATE,
    HOST,
    Node,
    Peer,
    answering,
    client,
    get,
    post,
    sidecar,
    sized,
    talk,
)

OK = sized(b"hi")
SMUGGLED = get("/smuggled")


class Recorder:
    """A node that keeps every byte; `ends` closes a request."""

    def __init__(self, ends: bytes, reply: bytes = OK) -> None:
        self.ends = ends
        self.reply = reply
        self.seen: list[bytes] = []

    async def __call__(self, peer: Peer) -> None:
        self.seen.append(await peer.until(self.ends))
        await peer.send(self.reply)
        self.seen.append(await peer.rest())


BROKEN_CHUNKS = {
    "S08-hex": b"0x3\r\nabc\r\n0\r\n\r\n",
    "S08-plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "S08-minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "S08-underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "S08-17-digits": b"f" * 17 + b"\r\nabc",
    "S08-bare-line-feed": b"3\nabc\n0\n\n",
    "S08-no-line-end": b"3\r\nabcd\r\n0\r\n\r\n",
    "S08-trailer": b"3\r\nabc\r\n0\r\nno colon\r\n\r\n",
}
BROKEN = {name: (raw, 400) for name, raw in REFUSED.items()} | OTHERWISE
BROKEN |= {
    name: (head(b"Transfer-Encoding: chunked", line=b"POST /api/chat HTTP/1.1") + raw, 400)
    for name, raw in BROKEN_CHUNKS.items()
}
BROKEN |= {
    "S14-tls-hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "S14-random": (bytes(range(200, 256)) * 4, 400),
    "S14-blank-line-first": (b"\r\n" + get("/x"), 400),
}


@pytest.mark.parametrize("raw, status", BROKEN.values(), ids=BROKEN)
async def test_broken_request_is_refused_and_nobody_is_asked(raw: bytes, status: int) -> None:
    """S01 to S08, S10, S11, S13, S14, S16."""
    async with Node(answering(OK)) as node, sidecar(node.port) as one:
        async with asyncio.timeout(1):
            got = await talk(one.port, raw + b"0123" + SMUGGLED)

        assert node.connections == 0
    assert got.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in got
    assert got.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("raw", ACCEPTED.values(), ids=ACCEPTED)
async def test_odd_request_is_passed_with_its_target(raw: bytes) -> None:
    """S10 to S13, S16, S17, S19."""
    recorder = Recorder(b"\r\n\r\n")
    body = b"abc" if b"Content-Length: 3\r" in raw else b""
    if b"9999" in raw:
        return  # its body never ends
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(raw.replace(b"Host: a", b"Host: 127.0.0.1", 1) + body)
        got = await peer.until(b" 200 OK\r\n")
        await peer.until(b"hi")

    assert got.endswith(b" 200 OK\r\n")
    assert recorder.seen[0].partition(b"\r\n")[0].startswith(raw.partition(b" HTTP/")[0])


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/../admin",
        b"/v1/%2e%2e/admin/mode",
        b"/%61dmin%2fstatus",
        b"/v1/..;/admin",
        b"/admin%5c",
        b"/admin/\\mode",
        b"/admin/mode%00",
        b"/admin/caf\xc3\xa9",
        b"//admin/mode",
        b"/\xff?\x80",
    ],
    ids=lambda target: "S12-" + target.decode("latin-1"),
)
async def test_unclean_path_is_never_ours_and_passes_as_it_came(target: bytes) -> None:
    """S12."""
    recorder = Recorder(b"\r\n\r\n")
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        await peer.until(b"hi")

    assert recorder.seen[0].startswith(b"GET " + target + b" HTTP/1.1\r\n")


async def test_absolute_target_with_our_host_is_its_path() -> None:
    """S11."""
    recorder = Recorder(b"\r\n\r\n")
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(b"GET http://127.0.0.1/api/x?y HTTP/1.1\r\n" + HOST + b"\r\n")
        await peer.until(b"hi")

    assert recorder.seen[0].startswith(b"GET /api/x?y HTTP/1.1\r\n")


async def test_trailers_of_a_client_are_dropped() -> None:
    """S09."""
    recorder = Recorder(b"}")
    trailers = b"Host: evil\r\nContent-Length: 99\r\nAuthorization: Bearer x\r\n"
    chunked = post("/api/show", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(chunked + b'd\r\n{"model":"a"}\r\n0\r\n' + trailers + b"\r\n", get("/x"))
        await peer.until(b"hi")

    assert recorder.seen[0].lower().count(b"host:") == 1
    assert b"uthorization" not in recorder.seen[0]
    assert b"99" not in recorder.seen[0]


@pytest.mark.parametrize("body", [b'{"model":"tiny"}', SMUGGLED], ids=["json", "a-request"])
@pytest.mark.parametrize("later", [False, True], ids=["same-segment", "later-segment"])
@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"foo"], ids=lambda u: f"S15-{u!r}")
async def test_wish_for_another_protocol_is_ignored_and_the_body_is_whole(
    upgrade: bytes, later: bool, body: bytes
) -> None:
    """S15."""
    recorder = Recorder(body)
    wish = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + upgrade, b"HTTP2-Settings: AA")
    raw = post("/api/show", body, *wish)
    at = len(raw) - len(body) if later else len(raw)
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(raw[:at])
        if later:
            await asyncio.sleep(0.02)
            await peer.send(raw[at:])
        first = await peer.until(b"hi")
        assert await peer.quiet(0.03)

        assert node.connections == 1
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    received = recorder.seen[0]
    assert b"pgrade" not in received
    assert b"HTTP2-Settings" not in received
    assert received.endswith(b"\r\n\r\n" + body)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE"], ids=lambda m: f"S19-{m.decode()}")
async def test_body_of_an_unlikely_method_is_never_a_request(method: bytes) -> None:
    """S19."""
    recorder = Recorder(SMUGGLED, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    raw = post("/api/x", SMUGGLED).replace(b"POST", method, 1)
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(raw)
        assert (await peer.head()).startswith(b"HTTP/1.1 200 OK")
        assert await peer.quiet(0.03)

        assert node.connections == 1
    assert recorder.seen[0].endswith(b"\r\n\r\n" + SMUGGLED)


async def test_fields_with_underscores_pass_and_mean_nothing() -> None:
    """S17."""
    recorder = Recorder(b"\r\n\r\n")
    raw = get("/x", b"Content_Length: 50", b"X_Forwarded_For: 1.2.3.4")
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(raw)
        await peer.until(b"hi")

    assert b"Content_Length: 50\r\nX_Forwarded_For: 1.2.3.4\r\n" in recorder.seen[0]


# Expect: 100-continue

EXPECTS = (b"Expect: 100-continue",)


async def test_continue_is_sent_when_the_body_is_wanted_and_not_forwarded() -> None:
    """S16."""
    recorder = Recorder(b"}")
    raw = post("/api/show", b'{"model":"a"}', *EXPECTS)
    at = raw.index(b"{")
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(raw[:at])
        assert await peer.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert node.connections == 0
        await peer.send(raw[at:])
        assert (await peer.head()).startswith(b"HTTP/1.1 200 OK\r\n")

    assert b"xpect" not in recorder.seen[0]


@pytest.mark.parametrize(
    "fields",
    [(b"Origin: http://evil.example",), (b"Host: evil.example",)],
    ids=["S16-origin", "S16-host"],
)
async def test_refused_request_gets_its_status_without_a_continue(fields: tuple[bytes]) -> None:
    """S16."""
    raw = post("/api/generate", b"x" * 100, *EXPECTS, *fields)
    if b"Host" in fields[0]:
        raw = raw.replace(HOST, b"", 1)
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    async with Node(answering(refusal)) as node, sidecar(node.port) as one:
        got = await talk(one.port, raw[:-100])

    assert got.startswith(b"HTTP/1.1 403 ")
    assert b"100 Continue" not in got
    assert b"Connection: close\r\n" in got


async def test_old_client_gets_no_continue() -> None:
    recorder = Recorder(b"}")
    raw = post("/api/show", b'{"model":"a"}', *EXPECTS).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    async with Node(recorder) as node, sidecar(node.port) as one:
        got = await talk(one.port, raw)

    assert got.startswith(b"HTTP/1.0 200 OK\r\n")


# segments


async def test_request_is_the_same_wherever_its_segments_end() -> None:
    raw = post("/api/show", b'{"model":"a"}', b"X-A: b")

    async def script(peer: Peer) -> None:
        while True:
            assert (await peer.until(b"}")).endswith(b'\r\n\r\n{"model":"a"}')
            await peer.send(OK)

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        for at in range(1, len(raw)):
            await peer.send(raw[:at], raw[at:])
            got = await peer.until(b"\r\n\r\nhi")
            assert got.startswith(b"HTTP/1.1 200 OK\r\n")

        assert node.connections == 1


async def test_request_is_read_byte_by_byte() -> None:
    async with Node(answering(OK)) as node, sidecar(node.port) as one, client(one.port) as peer:
        raw = get("/api/version", b"X-A: b")
        await peer.send(*[raw[at : at + 1] for at in range(len(raw))])

        assert (await peer.until(b"hi")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_long_head_byte_by_byte_costs_little() -> None:
    raw = get("/api/version", *[b"X-%d: %b" % (number, b"a" * 500) for number in range(60)])
    async with Node(answering(OK)) as node, sidecar(node.port) as one, client(one.port) as peer:
        async with asyncio.timeout(5):
            for at in range(0, len(raw), 8):
                await asyncio.get_running_loop().sock_sendall(peer.sock, raw[at : at + 8])
                await asyncio.sleep(0)

        assert (await peer.until(b"hi")).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    "raw",
    [b'{"model":' + b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b'{"model":"\xff\xfe"}', b"{"],
    ids=["S35-depth", "S35-digits", "S35-bytes", "S35-cut"],
)
async def test_body_that_cannot_be_read_is_stock_s_to_refuse(raw: bytes) -> None:
    """S35."""
    refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4\r\n\r\nno!!"
    recorder = Recorder(raw, refusal)
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(post("/api/chat", raw))
        got = await peer.until(b"no!!")

    assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert recorder.seen[0].endswith(raw)


async def test_generation_is_asked_once_for_one_request() -> None:
    recorder = Recorder(b"}")
    async with Node(recorder) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(GENERATE)
        await peer.until(b"hi")

        assert node.connections == 1
    assert recorder.seen[0].count(b"POST ") == 1
