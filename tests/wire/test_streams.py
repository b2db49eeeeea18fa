"""A reply on its way from the node to the client: chunk in, chunk out, at the client's pace."""

import asyncio

import pytest

from ollama_wrap.wire.base import Exchange, Framing
from ollama_wrap.wire.guard import Limits
from tests.wire.stage import (
    CHUNKED,
    GENERATE,
    LAST,
    Node,
    Peer,
    answering,
    chunk,
    client,
    get,
    parsed,
    post,
    serving,
    sidecar,
    sized,
    talk,
    until,
)

LINES = [b'{"response":"%d"}\n' % number for number in range(5)]


async def test_each_chunk_is_handed_on_before_the_next_one_exists() -> None:
    said = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.until(b"}")
        await peer.send(CHUNKED)
        for line in LINES:
            await peer.send(chunk(line))
            await said.wait()
            said.clear()
        await peer.send(LAST)

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(GENERATE)
        await peer.head()
        for line in LINES:
            assert await peer.until(b"}\n\r\n") == chunk(line)
            said.set()

        assert await peer.until(LAST) == LAST


async def test_chunks_that_came_together_stay_apart() -> None:
    reply = CHUNKED + b"".join(map(chunk, LINES)) + LAST
    async with Node(answering(reply)) as node, sidecar(node.port) as one:
        got = await parsed(await talk(one.port, get("/x", b"Connection: close")))

        assert got.chunks == LINES
        assert got.clean_end


@pytest.mark.parametrize("cut", range(1, len(chunk(LINES[1]))))
async def test_chunk_that_came_in_two_segments_is_one(cut: int) -> None:
    """Stock writes 4 KiB at a time: the last line of a long answer always comes in parts."""
    torn = chunk(LINES[1])

    async def script(peer: Peer) -> None:
        await peer.until(b"\r\n\r\n")
        await peer.send(CHUNKED + chunk(LINES[0]) + torn[:cut])
        await asyncio.sleep(0.01)
        await peer.send(torn[cut:] + chunk(LINES[2]) + LAST)

    async with Node(script) as node, sidecar(node.port) as one:
        got = await parsed(await talk(one.port, get("/x", b"Connection: close")))

        assert got.chunks == LINES[:3]
        assert got.clean_end


async def test_long_chunk_is_not_waited_for_and_nothing_of_it_is_lost() -> None:
    body = bytes(range(256)) * 1024
    reply = CHUNKED + chunk(body) + chunk(b"end") + LAST
    async with Node(answering(reply)) as node, sidecar(node.port) as one:
        got = await parsed(await talk(one.port, get("/x", b"Connection: close")))

        assert b"".join(got.chunks) == body + b"end"
        assert got.chunks[-1] == b"end"
        assert got.clean_end


async def test_part_of_a_chunk_goes_out_when_its_node_vanishes() -> None:
    async def script(peer: Peer) -> None:
        await peer.until(b"\r\n\r\n")
        await peer.send(CHUNKED + chunk(LINES[0]))
        await peer.send(b"ff\r\nhalf a line")
        await asyncio.sleep(0.05)
        peer.close()

    async with Node(script) as node, sidecar(node.port) as one:
        got = await parsed(await talk(one.port, get("/x", b"Connection: close")))

        assert b"".join(got.chunks) == LINES[0] + b"half a line"
        assert not got.clean_end


async def test_trailers_of_a_node_are_dropped() -> None:
    reply = CHUNKED + chunk(b"a") + b"0\r\nX-Sum: 1\r\nHost: x\r\n\r\n"
    async with Node(answering(reply)) as node, sidecar(node.port) as one:
        async with client(one.port) as peer:
            await peer.send(get("/x"), get("/x"))
            first = await peer.until(b"0\r\n")
            after = await peer.until(b"0\r\n")

        assert b"X-Sum" not in first + after
        assert after.startswith(b"\r\nHTTP/1.1 200 OK\r\n")


async def test_head_of_a_reply_keeps_names_order_and_empty_values() -> None:
    fields = (b"x-LOWER: a", b"X-Empty:", b"X-Twice: 1", b"x-twice: 2", b"X-8: \xe9")
    async with (
        Node(answering(sized(b"hi", *fields))) as node,
        sidecar(node.port) as one,
        client(one.port) as peer,
    ):
        await peer.send(get("/x"))
        head = await peer.head()

    expected = b"x-LOWER: a\r\nX-Empty: \r\nX-Twice: 1\r\nx-twice: 2\r\nX-8: \xe9\r\n"
    assert expected in head


async def test_phrase_of_a_status_survives_any_segment_border() -> None:
    reply = b"HTTP/1.1 207 Some Odd Phrase\r\nContent-Length: 0\r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.head()
        for at in range(len(reply)):
            await peer.send(reply[at : at + 1])
            await asyncio.sleep(0)

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/x"))

        assert (await peer.head()).startswith(b"HTTP/1.1 207 Some Odd Phrase\r\n")


async def test_interim_replies_of_a_node_are_left_out() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    async with Node(answering(interim + sized(b"hi"))) as node, sidecar(node.port) as one:
        got = await talk(one.port, get("/x", b"Connection: close"))

    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Link" not in got
    assert got.endswith(b"\r\n\r\nhi")


async def test_body_that_ends_with_the_connection_is_framed_by_the_close() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/x"))
        head, body, end = await peer.head(), await peer.until(b"abc"), await peer.ended()

    assert b"Connection: close\r\n" in head
    assert (body, end) == (b"abc", "fin")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_reply_without_body_leaves_the_connection_usable(status: bytes) -> None:
    reply = b"HTTP/1.1 " + status + b"\r\nX-A: 1\r\n\r\n"
    async with Node(answering(reply)) as node, sidecar(node.port) as one:
        async with client(one.port) as peer:
            for _ in range(3):
                await peer.send(get("/x"))
                assert b"X-A: 1" in await peer.head()

        assert node.connections == 3  # an unknown path always gets a fresh one


async def test_head_request_gets_the_head_alone_and_its_connection_stays() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    async with Node(answering(reply)) as node, sidecar(node.port) as one:
        async with client(one.port) as peer:
            for _ in range(3):
                await peer.send(get("/api/version").replace(b"GET", b"HEAD"))
                assert b"Content-Length: 1000\r\n" in await peer.head()
                assert await peer.quiet(0.02)

        assert node.connections == 1


# HTTP/1.0


async def test_old_client_gets_an_old_reply_that_ends_with_the_connection() -> None:
    reply = CHUNKED + b"".join(map(chunk, LINES)) + LAST
    async with Node(answering(reply)) as node, sidecar(node.port) as one:
        got = await talk(one.port, get("/x", version=b"1.0"))

    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection" not in head.lower()
    assert body == b"".join(LINES)


async def test_old_client_that_asks_keeps_its_connection_where_a_length_is_known() -> None:
    async with (
        Node(answering(sized(b"hi"))) as node,
        sidecar(node.port) as one,
        client(one.port) as peer,
    ):
        for _ in range(2):
            await peer.send(get("/api/version", b"Connection: keep-alive", version=b"1.0"))
            head = await peer.head()
            assert head.startswith(b"HTTP/1.0 200 OK\r\n")
            assert b"Connection: keep-alive\r\n" in head
            assert await peer.until(b"hi") == b"hi"


async def test_broken_stream_to_an_old_client_ends_with_a_reset() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(CHUNKED + chunk(b"abc"))

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/x", version=b"1.0"))

        assert await peer.ended() == "reset"


# back-pressure


async def test_slow_reader_pauses_the_node_and_holds_little_memory() -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.head()
        await peer.send(CHUNKED)
        for _ in range(640):
            await peer.send(chunk(b"x" * 65536))
            sent += 65536
        await peer.send(LAST)

    async with Node(script) as node, sidecar(node.port) as one:
        async with client(one.port, window=65536) as peer:
            await peer.send(get("/x"))
            await peer.head()
            await asyncio.sleep(0.3)
            held = sent
            (connection,) = one.guard.connections
            buffered = connection.transport.get_write_buffer_size()

            body = await peer_reads(peer, 640 * len(chunk(b"x" * 65536)) + len(LAST))

        assert held < 24 * 1024 * 1024  # of 40 MiB; what kernels hold is theirs
        assert 0 < buffered <= 2 * 1024 * 1024
        assert body.count(b"x") == 640 * 65536


async def test_next_answer_waits_too_when_the_buffer_is_full_of_the_one_before() -> None:
    paused = []

    def take(exchange: Exchange) -> bool:
        paused.append(exchange.paused)
        exchange.begin(200, b"OK", [(b"Content-Length", b"8000004")], Framing.LENGTH)
        exchange.feed([b"x" * 8_000_000, b"END\n"])
        exchange.end()
        return True

    async with (
        serving(take, Limits(marks=(1024, 512))) as port,
        client(port, window=4096) as peer,
    ):
        await peer.send(get("/big") + get("/big"))
        await until(lambda: len(paused) == 2)
        await peer.head()
        got = await peer_reads(peer, 8_000_004)

    assert paused == [False, True]
    assert got[8_000_000:8_000_004] == b"END\n"


async def test_connection_to_the_node_serves_on_after_a_slow_reader() -> None:
    big = sized(b"x" * 3_000_000)
    async with Node(answering(big)) as node, sidecar(node.port) as one:
        async with client(one.port, window=8192) as peer:
            for _ in range(3):
                await peer.send(get("/api/version"))
                await peer.head()
                await asyncio.sleep(0.02)
                assert len(await peer_reads(peer, 3_000_000)) == 3_000_000

        assert node.connections == 1


async def peer_reads(peer: Peer, size: int) -> bytes:
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < size:
        pieces.append(await peer.read())
        assert pieces[-1]
    return b"".join(pieces)


async def test_reply_of_many_megabytes_is_whole() -> None:
    body = bytes(range(256)) * 40_000
    async with Node(answering(sized(body))) as node, sidecar(node.port) as one:
        got = await talk(one.port, get("/x", b"Connection: close"))

    assert got.partition(b"\r\n\r\n")[2] == body


async def test_upgrade_is_not_forwarded_and_post_has_its_reply() -> None:
    seen = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.until(b"}"))
        await peer.send(sized(b"hi"))

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        fields = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA")
        await peer.send(post("/api/show", b'{"model":"a"}', *fields))

        assert (await peer.head()).startswith(b"HTTP/1.1 200 OK")
        assert b"pgrade" not in seen[0]
        assert seen[0].endswith(b'{"model":"a"}')
