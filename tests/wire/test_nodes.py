"""Nodes that break their replies, drop their connections, or do not answer at all."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollama_wrap import tasks
from ollama_wrap.errors import ConnectFailed, StreamBroken, UpstreamTimeout
from ollama_wrap.wire.connection import Connection
from ollama_wrap.wire.pool import Alive, Pool, Target
from tests.wire.stage import (
    CHUNKED,
    LAST,
    Node,
    Peer,
    Script,
    answering,
    chunk,
    client,
    get,
    parsed,
    post,
    sidecar,
    sized,
    talk,
    until,
)

TLS = Path(__file__).parents[1] / "data" / "tls"
OK = sized(b"hi")
END = b"Content-Length: 2\r\n\r\nhi"


def once(reply: bytes) -> Script:
    """Answers one request, then ends the connection."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply)

    return script


BROKEN = {
    "S20-return-in-field": b"HTTP/1.1 200 OK\r\nX-A: b\rX-B: c\r\n" + END,
    "S20-line-feed-in-field": b"HTTP/1.1 200 OK\r\nX-A: b\nX-B: c\r\n" + END,
    "S20-nul-in-field": b"HTTP/1.1 200 OK\r\nX-A: b\x00c\r\n" + END,
    "S20-space-before-colon": b"HTTP/1.1 200 OK\r\nX-A : b\r\n" + END,
    "S20-two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n" + END,
    "S20-length-and-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + END,
    "S20-bad-length": b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
    "S20-200-KiB-field": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 204_800 + b"\r\n" + END,
    "S20-head-of-many-fields": b"HTTP/1.1 200 OK\r\n" + b"X-A: 1234567\r\n" * 10_000 + END,
    "S20-head-without-end": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100_000,
    "S20-switch": b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "S20-interim-flood": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20 + OK,
    "garbage": b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
    "bad-status": b"HTTP/1.1 9x OK\r\n" + END,
    "other-protocol": b"ICY 200 OK\r\n" + END,
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
async def test_reply_that_is_not_http_becomes_an_honest_error(reply: bytes) -> None:
    """S20."""
    async with Node(once(reply)) as node, sidecar(node.port) as one:
        got = await parsed(await talk(one.port, get("/x", b"Connection: close")))

        assert one.idle == 0
    assert got.status == 502
    assert got.clean_end
    assert got.header("X-A") is None
    assert got.header("Upgrade") is None
    assert got.body != b"hi"


CUT = {
    "in-mid-chunk": (CHUNKED + chunk(b"abc"), b"5\r\nde"),
    "without-last-chunk": (CHUNKED + chunk(b"abc"), b""),
    "bad-chunk-size": (CHUNKED + chunk(b"abc"), b"xyz\r\n" + LAST),
    "chunk-too-long": (CHUNKED + chunk(b"abc"), b"2\r\nxyz\r\n" + LAST),
    "length-too-long": (sized(b"abcd")[:-1], b""),
    "much-too-short": (sized(b"abc" * 1000)[:-1500], b"d"),
}


@pytest.mark.parametrize("reply, rest", CUT.values(), ids=CUT)
async def test_broken_body_never_ends_cleanly(reply: bytes, rest: bytes) -> None:
    passed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(reply)
        await passed.wait()
        await peer.send(rest)

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/x", b"Connection: close"))
        begun = await peer.until(b"abc")
        passed.set()
        got = await parsed(begun + await peer.rest())

        assert one.idle == 0
    assert got.status == 200
    assert not got.clean_end
    assert got.body.startswith(b"abc")
    assert b"z" not in got.body


BEHIND = {
    "one-byte-too-many": OK + b"x",
    "garbage": OK + b"\x00\x01garbage\r\n\r\n",
    "two-replies": OK + sized(b"another"),
    "behind-the-last-chunk": CHUNKED + chunk(b"hi") + LAST + b"more",
}


@pytest.mark.parametrize("reply", BEHIND.values(), ids=BEHIND)
async def test_what_comes_behind_a_reply_is_never_an_answer(reply: bytes) -> None:
    async with Node(answering(reply)) as node, sidecar(node.port) as one:
        async with client(one.port) as peer:
            for _ in range(3):
                await peer.send(get("/api/version"))
                first = await peer.until(b"hi")
                assert first.count(b"HTTP/1.1 200 OK\r\n") == 1
                if b"chunked" in first:
                    await peer.until(LAST)
            assert await peer.quiet(0.02)

        assert node.connections == 3


async def test_reply_with_a_body_behind_an_empty_one_like_it_keeps_its_body() -> None:
    async def script(peer: Peer) -> None:
        for body in (b"", b"hi", b"", b"hello"):
            await peer.head()
            await peer.send(sized(body))
        await peer.rest()

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/api/version"))
        await peer.until(b"Content-Length: 0\r\n")
        await peer.send(get("/api/version"))
        assert (await peer.until(b"hi")).endswith(b"hi")
        await peer.send(get("/api/version"))
        await peer.until(b"Content-Length: 0\r\n")
        await peer.send(get("/api/version"))
        assert (await peer.until(b"hello")).endswith(b"hello")

        assert node.connections == 1


async def test_late_garbage_on_an_idle_connection_ends_it() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await asyncio.sleep(0.05)
        await peer.send(sized(b"another"))
        await peer.rest()

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/api/version"))
        await peer.until(b"hi")
        await until(lambda: node.done == 1)
        await peer.send(get("/api/version"))

        assert (await peer.until(b"hi")).endswith(b"\r\n\r\nhi")


# stale connections


def dying(after: int, *, with_reset: bool = False) -> Script:
    """Answers so many requests, then takes one more and ends the connection."""

    async def script(peer: Peer) -> None:
        for _ in range(after):
            await peer.head()
            await peer.send(OK)
        await peer.head()
        if with_reset:
            peer.reset()

    return script


@pytest.mark.parametrize("with_reset", [False, True])
async def test_connection_that_died_meanwhile_is_replaced_for_free(with_reset: bool) -> None:
    script = dying(1, with_reset=with_reset)
    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        for _ in range(4):
            await peer.send(get("/api/version"))
            assert (await peer.until(b"hi")).startswith(b"HTTP/1.1 200 OK\r\n")

        assert node.connections == 4
        assert one.runtime.fleets.current.local.circuit.fails == 0


async def test_new_connection_that_dies_is_no_stale_one() -> None:
    async with Node(dying(0)) as node, sidecar(node.port) as one:
        got = await parsed(await talk(one.port, get("/api/version", b"Connection: close")))

        assert node.connections == 1
    assert got.status in {502, 503}


async def test_many_stale_connections_are_one_free_repeat() -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await gate.wait()
        await peer.send(OK)
        await peer.head()

    async with Node(script) as node, sidecar(node.port) as one:
        ask = get("/api/version", b"Connection: close")
        crowd = [asyncio.create_task(talk(one.port, ask)) for _ in range(8)]
        await until(lambda: node.connections == 8)
        gate.set()
        await asyncio.gather(*crowd)
        await until(lambda: one.idle == 8)

        got = await talk(one.port, ask)

        assert got.endswith(b"hi")
        assert node.connections == 9


async def test_what_may_be_done_once_always_gets_a_fresh_connection() -> None:
    pull = post("/api/delete", b'{"model":"tiny"}'), post("/api/pull", b'{"model":"tiny"}')

    async def script(peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            while True:
                if b"POST" in await peer.head():
                    await peer.until(b"}")
                await peer.send(OK)

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/api/version"))
        await peer.until(b"hi")
        for raw in pull:
            await peer.send(raw)
            await peer.until(b"hi")

        assert node.connections == 3


async def test_what_may_be_done_once_is_not_repeated() -> None:
    async with Node(dying(0)) as node, sidecar(node.port) as one:
        raw = post("/api/pull", b'{"model":"tiny"}', b"Connection: close")
        got = await parsed(await talk(one.port, raw))

        assert node.connections == 1
    assert got.status == 502


async def test_node_that_hangs_up_at_once_is_no_fault_of_ours() -> None:
    async def script(peer: Peer) -> None:
        peer.reset()

    async with Node(script) as node, sidecar(node.port) as one:
        got = [await talk(one.port, get("/x", b"Connection: close")) for _ in range(50)]

    assert {answer.split(b" ", 2)[1] for answer in got} <= {b"502", b"503"}


async def test_request_on_a_connection_that_has_ended_fails_as_one_that_was_cut() -> None:
    async with Node(once(OK)) as node:
        connection = await Pool(target(node.port)).connect()
        await asked(connection)
        await until(lambda: connection.closed)

        answer = connection.send(get("/x"), bare=False, whole=True)

        await answer.arrived
        assert isinstance(answer.error, StreamBroken)
        assert answer.stale


# connecting


async def test_refused_connection_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    async with sidecar(port) as one, asyncio.timeout(1):
        raw = post("/api/generate", b'{"model":"tiny"}', b"Connection: close")
        got = await parsed(await talk(one.port, raw))

    assert got.status == 503


@contextlib.asynccontextmanager
async def full() -> AsyncIterator[int]:
    """A port whose queue of connections is full: nobody gets an answer."""
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        waiting = []
        for _ in range(8):
            queued = stack.enter_context(socket.socket())
            queued.setblocking(False)
            waiting.append(asyncio.ensure_future(loop.sock_connect(queued, sock.getsockname())))
        await asyncio.sleep(0.05)
        yield sock.getsockname()[1]
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_node_that_does_not_accept_is_a_timeout() -> None:
    async with full() as port, sidecar(port, upstream={"connect_local": 0.1}) as one:
        async with asyncio.timeout(1):
            got = await parsed(await talk(one.port, get("/x", b"Connection: close")))

    assert got.status in {503, 504}


async def test_client_that_leaves_while_it_is_connected_leaves_no_task() -> None:
    async with full() as port, sidecar(port, upstream={"connect_local": 0.2}) as one:
        before = tasks.running()
        for _ in range(5):
            async with client(one.port) as peer:
                await peer.send(get("/api/version"))
                await asyncio.sleep(0.01)
        await one.settled()

        await until(lambda: tasks.running() <= before)


def target(port: int, **more: object) -> Target:
    return Target(lambda: ("127.0.0.1",), port, "tower.example", **more)  # type: ignore[arg-type]


async def asked(connection: Connection) -> bytes:
    answer = connection.send(get("/x"), bare=False, whole=True)
    return await answer.peek(1000)


async def test_next_address_is_tried_when_one_refuses() -> None:
    async with Node(answering(OK)) as node:
        pool = Pool(Target(lambda: ("127.0.0.2", "127.0.0.1"), node.port, "x"))
        if sys_refuses_second_loopback():
            connection = await pool.connect()
            assert await asked(connection) == b"hi"
        pool.close()


def sys_refuses_second_loopback() -> bool:
    """127.0.0.2 is an address of its own on Linux only."""
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.2", 0))
        except OSError:
            return False
    return True


async def test_name_without_address_fails_to_connect() -> None:
    pool = Pool(Target(tuple, 1, "nowhere"))

    with pytest.raises(ConnectFailed, match="nowhere has no known address"):
        await pool.connect()


async def test_most_that_a_caller_allows_ends_the_wait() -> None:
    async with full() as port:
        pool = Pool(target(port, connect=60.0))

        with pytest.raises(UpstreamTimeout) as caught:
            await pool.connect(0.05)

        assert not caught.value.sent


async def test_connection_made_for_nobody_is_kept_for_the_next() -> None:
    async with Node(answering(OK)) as node:
        pool = Pool(target(node.port))
        work = asyncio.create_task(pool.connect())
        await asyncio.sleep(0)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await until(lambda: len(pool.idle) == 1)

        connection = pool.reuse()

        assert connection is not None
        assert await asked(connection) == b"hi"
        assert node.connections == 1
        pool.close()


async def test_connection_made_after_the_pool_has_closed_is_ended() -> None:
    async with Node(answering(OK)) as node:
        pool = Pool(target(node.port))
        work = asyncio.create_task(pool.connect())
        await asyncio.sleep(0)
        work.cancel()
        pool.close()
        await asyncio.gather(work, return_exceptions=True)

        await until(lambda: node.done == node.connections == 1)
        assert not pool.idle


async def test_connection_used_last_is_used_next() -> None:
    async with Node(answering(OK)) as node:
        pool = Pool(target(node.port))
        first, second = await pool.connect(), await pool.connect()
        for one in (first, second):
            await asked(one)

        assert pool.reuse() is second
        assert pool.reuse() is first
        assert pool.reuse() is None
        first.drop()
        second.drop()


async def test_idle_connections_are_closed_after_their_time() -> None:
    async with Node(answering(OK)) as node:
        pool = Pool(target(node.port, idle=0.1))
        for one in [await pool.connect() for _ in range(3)]:
            await asked(one)
        assert len(pool.idle) == 3

        await until(lambda: node.done == 3)

        assert not pool.idle
        assert pool.reuse() is None


async def test_pool_without_idle_time_reuses_nothing() -> None:
    async with Node(answering(OK)) as node:
        pool = Pool(target(node.port, idle=0.0))
        await asked(await pool.connect())

        assert pool.reuse() is None
        await until(lambda: node.done == 1)


async def test_connection_at_work_when_its_pool_closes_ends_with_its_request() -> None:
    async with Node(answering(OK)) as node:
        pool = Pool(target(node.port))
        connection = await pool.connect()
        answer = connection.send(get("/x"), bare=False, whole=True)
        pool.close()

        assert await answer.peek(10) == b"hi"
        await until(lambda: node.done == 1)
        assert not pool.idle


async def test_idle_connection_that_the_node_has_closed_is_not_used() -> None:
    async with Node(once(OK)) as node:
        pool = Pool(target(node.port))
        connection = await pool.connect()
        await asked(connection)
        await until(lambda: connection.closed)

        assert pool.reuse() is None


async def test_silent_peers_are_found_by_the_options_of_the_socket() -> None:
    async with Node(answering(OK)) as node:
        pool = Pool(target(node.port, options=Alive(7, 3, 2, 9).options()))
        connection = await pool.connect()
        sock = connection.transport.get_extra_info("socket")

        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 3
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 2
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9000
        connection.drop()


# an answer on its own


async def test_answer_that_nobody_takes_pauses_the_node() -> None:
    async with Node(answering(sized(b"x" * 20_000_000))) as node:
        pool = Pool(target(node.port))
        connection = await pool.connect()
        answer = connection.send(get("/x"), bare=False, whole=True)
        await answer.begun
        await asyncio.sleep(0.1)
        held = answer.size

        taken = Taken()
        answer.start(taken)
        await taken.ended

        assert held < 1024 * 1024
        assert taken.size == 20_000_000
        pool.close()


class Taken:
    """A sink that pauses its source after each feed, and goes on later."""

    def __init__(self) -> None:
        self.size = 0
        self.ended: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def feed(self, pieces: list[bytes]) -> None:
        self.size += sum(map(len, pieces))

    def end(self, error: Exception | None) -> None:
        self.ended.set_result(error)


async def test_closed_answer_ends_its_connection() -> None:
    async with Node(answering(CHUNKED + chunk(b"a"))) as node:
        connection = await Pool(target(node.port)).connect()
        answer = connection.send(get("/x"), bare=False, whole=True)
        await answer.begun

        answer.close()
        answer.close()

        await until(lambda: node.done == 1)


async def test_answer_that_is_failed_from_outside_tells_its_sink() -> None:
    async with Node(answering(CHUNKED + chunk(b"a"))) as node:
        connection = await Pool(target(node.port)).connect()
        answer = connection.send(get("/x"), bare=False, whole=True)
        taken = Taken()
        await answer.begun
        answer.start(taken)

        answer.fail(StreamBroken("the node is gone"))

        assert isinstance(await taken.ended, StreamBroken)
        assert taken.size == 1
        await until(lambda: node.done == 1)


# TLS


@contextlib.asynccontextmanager
async def secure() -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(sized(b"x" * 300_000))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(TLS / "cert.pem"))


async def test_node_with_a_certificate_of_our_own_authority_is_spoken_to() -> None:
    async with secure() as port:
        pool = Pool(target(port, tls=trusting()))
        for _ in range(3):
            connection = pool.reuse() or await pool.connect()
            answer = connection.send(get("/x"), bare=False, whole=True)
            assert len(await answer.peek(300_000)) == 300_000
            await until(lambda: len(pool.idle) == 1)

        pool.close()
        await asyncio.sleep(0.05)


async def test_certificate_of_an_unknown_authority_is_refused() -> None:
    async with secure() as port:
        pool = Pool(target(port, tls=ssl.create_default_context()))

        with pytest.raises(ConnectFailed, match=r"(?i)certificate|verif"):
            await pool.connect()
        await asyncio.sleep(0.05)


async def test_certificate_of_another_name_is_refused() -> None:
    async with secure() as port:
        pool = Pool(Target(lambda: ("127.0.0.1",), port, "elsewhere.example", trusting()))

        with pytest.raises(ConnectFailed):
            await pool.connect()
        await asyncio.sleep(0.05)


async def test_node_that_never_shakes_hands_is_a_timeout() -> None:
    async def silent(peer: Peer) -> None:
        await peer.rest()

    async with Node(silent) as node:
        pool = Pool(target(node.port, tls=trusting(), connect=0.2))

        with pytest.raises(UpstreamTimeout):
            await pool.connect()
        await until(lambda: node.done == 1)


async def test_plain_node_behind_https_fails_to_connect() -> None:
    async def plain(peer: Peer) -> None:
        await peer.read()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async with Node(plain) as node:
        pool = Pool(target(node.port, tls=trusting()))

        with pytest.raises(ConnectFailed):
            await pool.connect()
