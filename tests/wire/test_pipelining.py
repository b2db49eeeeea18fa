"""Requests that are sent without waiting are answered in their order, one at a time."""

import asyncio

import pytest

from tests.fakes.cluster import cluster, host
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


async def echo(peer: Peer) -> None:
    """Answers each request with its target and body, bodies of 5 bytes or none."""
    while True:
        head = await peer.head()
        body = b""
        if b"Content-Length: 5" in head or b"chunked" in head:
            while len(peer.seen) < 5:
                peer.seen += await peer.read()
            body, peer.seen = peer.seen[:5], peer.seen[5:]
        target = head.split(b" ", 2)[1]
        await peer.send(sized(b"<" + target + b" " + body + b">"))


CLOSE = get("/last", b"Connection: close")


@pytest.mark.parametrize(
    "requests",
    [
        (get("/a"), get("/b")),
        (get("/a"), get("/b"), get("/c")),
        (post("/a", b"12345"), get("/b"), post("/c", b"abcde")),
        (post("/a", b"12345"), post("/b", b"67890")),
    ],
    ids=["two", "three", "with-bodies", "bodies-alone"],
)
async def test_requests_of_one_segment_are_answered_in_order(requests: tuple[bytes, ...]) -> None:
    async with Node(echo) as node, sidecar(node.port) as one:
        got = await talk(one.port, b"".join(requests) + CLOSE)

    answered = [part.partition(b">")[0] for part in got.split(b"<")[1:]]
    asked = [raw.split(b" ", 2)[1] + b" " + raw.partition(b"\r\n\r\n")[2] for raw in requests]
    assert answered == [*asked, b"/last "]


async def test_request_behind_a_chunked_body_is_answered() -> None:
    chunked = post("/a", b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunked += b"2\r\n12\r\n3\r\n345\r\n0\r\nX-Sum: 1\r\n\r\n"
    async with Node(echo) as node, sidecar(node.port) as one:
        got = await talk(one.port, chunked + get("/b") + CLOSE)

    assert got.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert [got.index(b"</a 12345>"), got.index(b"</b >")] == sorted(
        [got.index(b"</a 12345>"), got.index(b"</b >")]
    )


async def test_next_request_waits_for_the_answer_before() -> None:
    free = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await free.wait()
        await peer.send(sized(b"hi"))

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/a") + get("/b"))
        assert await peer.quiet(0.05)
        assert node.connections == 1
        free.set()

        await peer.until(b"hi")
        await peer.until(b"hi")


async def test_garbage_behind_a_request_spoils_only_itself() -> None:
    async with Node(echo) as node, sidecar(node.port) as one:
        got = await talk(one.port, get("/a") + b"garbage\r\n\r\n")

    assert b"</a >" in got
    assert got.partition(b"</a >")[2].startswith(b"HTTP/1.1 400 Bad Request\r\n")


async def test_what_follows_a_close_is_not_read() -> None:
    async with Node(echo) as node, sidecar(node.port) as one:
        got = await talk(one.port, CLOSE + get("/b"))

        assert node.connections == 1
    assert got.count(b"HTTP/1.1 ") == 1


async def test_flood_behind_a_request_is_held_back() -> None:
    free = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await free.wait()
        await peer.send(sized(b"hi"))

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/a"))
        flood = asyncio.create_task(peer.send(get("/b", b"X: " + b"a" * 8000) * 4000))
        await asyncio.sleep(0.2)
        (connection,) = one.guard.connections
        held, pausing = len(connection.held), connection.flow.read_paused
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
        free.set()

    assert pausing
    assert held < 1024 * 1024


async def test_our_own_routes_and_stock_s_mix_on_one_connection() -> None:
    async with cluster({"local": host("tiny")}, check=False) as one, client(one.port) as peer:
        await peer.send(
            get("/health/live")
            + get("/api/version")
            + post("/admin/mode", b'{"mode":"local"}')
            + GENERATE
            + get("/api/distributed/ping")
        )

        statuses = []
        for _ in range(5):
            head = await peer.head()
            statuses.append(head.split(b" ", 2)[1])
            if b"chunked" in head:
                await peer.until(b"0\r\n\r\n")
            else:
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                while len(peer.seen) < size:
                    peer.seen += await peer.read()
                peer.seen = peer.seen[size:]

    assert statuses == [b"200", b"200", b"403", b"200", b"200"]


async def test_own_route_that_does_not_want_its_body_drops_a_little_and_serves_on() -> None:
    async with cluster(check=False) as one, client(one.port) as peer:
        await peer.send(post("/health/live", b"x" * 100_000) + get("/api/version"))
        assert (await peer.head()).startswith(b"HTTP/1.1 405 ")

        assert b"version" in await peer.until(b'"}')


async def test_own_route_that_does_not_want_a_large_body_ends_the_connection() -> None:
    async with cluster(check=False) as one, client(one.port) as peer:
        raw = b"POST /health/live HTTP/1.1\r\n" + HOST + b"Content-Length: 90000000\r\n\r\n"
        flood = asyncio.create_task(peer.send(raw + b"x" * 20_000_000))
        await peer.head()

        await asyncio.wait([flood], timeout=5)
        assert isinstance(flood.exception(), OSError)


async def test_own_route_sees_its_body_in_parts() -> None:
    body = b'{"mode":"local"}'
    raw = post("/admin/mode", body, b"Authorization: Bearer 12345678")
    async with cluster(admin_token="12345678", check=False) as one, client(one.port) as peer:
        await peer.send(raw[:-10], raw[-10:-5], raw[-5:])
        got = await peer.head()

    assert got.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("query", [b'a"b', b"\xff\xe9", b"a|b{}<>^`\\"])
async def test_own_route_takes_any_query(query: bytes) -> None:
    async with cluster(check=False) as one:
        got = await talk(one.port, b"GET /health/live?" + query + b" HTTP/1.0\r\n" + HOST + b"\r\n")

    assert got.split(b" ", 2)[1] == b"200"


async def test_connection_serves_many_requests() -> None:
    async with Node(answering(sized(b"hi"))) as node, sidecar(node.port) as one:
        async with client(one.port) as peer:
            for _ in range(200):
                await peer.send(get("/api/version"))
                await peer.until(b"\r\n\r\nhi")

        assert node.connections == 1
