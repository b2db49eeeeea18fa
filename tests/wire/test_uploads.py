"""Bodies on their way up: whole, at the node's pace, and ended early as Go ends them."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from tests.wire.stage import (
    HOST,
    LAST,
    Node,
    Peer,
    answering,
    chunk,
    client,
    post,
    sidecar,
    sized,
    talk,
    until,
)

BLOB = "/api/blobs/sha256:" + "0" * 64
OK = sized(b"hi")
MIB = 1024 * 1024


def announcing(path: str, size: int, *fields: bytes) -> bytes:
    """The head of an upload of `size` bytes."""
    return post(path, b"", *fields).replace(b"Length: 0", b"Length: %d" % size)


class Receiver:
    """A node that reads a body of `size` bytes, and then answers."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.head = b""
        self.received = 0
        self.digest = hashlib.sha256()
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, peer: Peer) -> None:
        self.head = await peer.head()
        while self.received < self.size:
            await self.go.wait()
            piece = await peer.read(1 << 18)
            if not piece:
                return
            self.received += len(piece)
            self.digest.update(piece)
        await peer.send(OK)


async def test_upload_is_passed_while_it_comes() -> None:
    receiver = Receiver(10)
    async with Node(receiver) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(announcing(BLOB, 10) + b"01234")
        await until(lambda: receiver.received == 5)
        await peer.send(b"56789")

        assert (await peer.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert receiver.digest.digest() == hashlib.sha256(b"0123456789").digest()
    assert b"Content-Length: 10\r\n" in receiver.head


async def test_chunked_upload_stays_chunked() -> None:
    async def script(peer: Peer) -> None:
        seen.append(await peer.head())
        seen.append(await peer.until(LAST))
        await peer.send(OK)

    seen: list[bytes] = []
    head = announcing(BLOB, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(head + chunk(b"abc"), chunk(b"defg") + b"0\r\nX-Sum: 1\r\n\r\n")
        await peer.until(b"hi")

    assert b"Transfer-Encoding: chunked\r\n" in seen[0]
    assert b"ontent-Length" not in seen[0]
    assert seen[1].count(LAST) == 1
    assert b"X-Sum" not in seen[1]


async def test_slow_node_pauses_the_client() -> None:
    receiver = Receiver(48 * MIB)
    receiver.go.clear()
    async with (
        Node(receiver, window=65536) as node,
        sidecar(node.port) as one,
        client(one.port) as peer,
    ):
        await peer.send(announcing(BLOB, receiver.size))
        flood = asyncio.create_task(peer.send(b"x" * receiver.size))
        await until(lambda: any(each.flow.read_paused for each in one.guard.connections))
        await asyncio.sleep(0.1)
        (connection,) = one.guard.connections
        assert connection.exchange is not None
        held = connection.exchange._size
        assert not flood.done()
        receiver.go.set()

        assert (await peer.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        await flood
    assert held <= MIB
    assert receiver.received == receiver.size


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_upload_costs_no_memory(chunked: bool) -> None:
    size = 200 * MIB
    part = bytes(range(256)) * 1024

    async def script(peer: Peer) -> None:
        received = 0
        await peer.head()
        while received < size:
            received += len(await peer.read(1 << 18))
        await peer.send(OK)

    head = announcing(BLOB, size)
    if chunked:
        head = announcing(BLOB, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    framed = chunk(part) if chunked else part
    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(head)
        before = most = resident()
        for _ in range(size // len(part)):
            await peer.send(framed)
            most = max(most, resident())
        await peer.send(LAST if chunked else b"")

        await peer.until(b"hi")
    assert most - before < 10 * MIB


def resident() -> int:
    """Bytes of memory in use; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


async def test_body_above_the_replay_limit_is_streamed_whole_to_one_node() -> None:
    """S71."""
    receiver = Receiver(3 * MIB)
    body = b'{"model":"tiny","prompt":"' + b"x" * (3 * MIB - 28) + b'"}'
    settings = {"upstream": {"replay_limit": MIB}}
    async with Node(receiver) as node, sidecar(node.port, **settings) as one:
        got = await talk(one.port, post("/api/generate", body, b"Connection: close"))

        assert node.connections == 1
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert receiver.digest.digest() == hashlib.sha256(body).digest()


async def test_chunked_body_above_the_replay_limit_is_streamed_in_little_memory() -> None:
    """S71: endless, as far as a test goes."""

    async def script(peer: Peer) -> None:
        await peer.head()
        while b"END" not in await peer.read(1 << 18):
            pass
        await peer.send(OK)

    part = chunk(b"x" * 65536)
    head = announcing("/api/chat", 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    settings = {"upstream": {"replay_limit": 16 * MIB}}
    held = 0
    async with (
        Node(script) as node,
        sidecar(node.port, **settings) as one,
        client(one.port) as peer,
    ):
        await peer.send(head)
        for _ in range(400):
            await peer.send(part)
            await asyncio.sleep(0)
            unread = sum(each.exchange._size for each in one.guard.connections if each.exchange)
            held = max(held, unread + one.runtime.pipeline.budget.kept)
        await peer.send(chunk(b"END") + LAST)
        await peer.until(b"hi")

        assert node.connections == 1
    assert MIB < held <= 17 * MIB


# early replies


class Early:
    """A node that answers an upload before it has come, half-closes and drops, as Go does."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply

    async def __call__(self, peer: Peer) -> None:
        await peer.head()
        await peer.send(self.reply)
        peer.half_close()
        await asyncio.sleep(0.3)


EARLY = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!"


async def test_early_reply_to_an_upload_ends_the_connection_as_go_does() -> None:
    async with Node(Early(EARLY)) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(announcing(BLOB, 100_000) + b"x" * 1000)
        head = await peer.head()
        got = await peer.rest()
        await peer.send(b"x" * 1000)  # dropped, not refused

        await until(lambda: not one.guard.connections)
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"Connection: close\r\n" in head
    assert got == b"no!"


async def test_client_that_goes_on_after_an_early_reply_is_cut_after_a_while() -> None:
    async with Node(Early(EARLY)) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(announcing(BLOB, 90_000_000))
        await peer.until(b"no!")
        flood = peer.send(*[b"x" * 65536] * 1000)

        with pytest.raises(ConnectionError):
            await flood


async def test_early_reply_is_whole_before_a_slow_client_is_dropped() -> None:
    reply = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 4000000\r\nConnection: close\r\n\r\n"
    early = Early(reply + b"x" * 4_000_000)
    async with (
        Node(early) as node,
        sidecar(node.port) as one,
        client(one.port, window=8192) as peer,
    ):
        await peer.send(announcing(BLOB, 100_000))
        await peer.head()
        await asyncio.sleep(1.2)  # longer than what is left of an upload is dropped

        assert len(await peer.rest()) == 4_000_000


async def test_connection_of_an_early_reply_is_not_used_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)  # keeps its connection, though it has not read the body
        await peer.rest()

    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(announcing(BLOB, 100_000) + b"x" * 1000)
        await peer.until(b"hi")
        await one.settled()

        assert one.idle == 0
        await until(lambda: node.done == 1)


async def test_client_that_stops_in_mid_body_gets_no_second_answer() -> None:
    head = b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\n"
    async with Node(answering(OK)) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(head + b"01234")
        peer.half_close()

        assert await peer.rest() == b""
        assert node.connections == 0
