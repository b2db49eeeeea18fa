"""A client that leaves frees its node at once, whatever it was waiting for."""

import asyncio
import contextlib
import random
import sys

import pytest

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
    post,
    seconds_until,
    sidecar,
    sized,
    talk,
    until,
)

#: what reliability asks for is 0.1; a busy machine may take longer
AT_ONCE = 0.25
WAYS = ("close", "reset")


class Watcher:
    """A node that answers with `first`, and notes when its connection ends."""

    def __init__(self, first: bytes = b"", wanted: bytes = b"\r\n\r\n") -> None:
        self.first = first
        self.wanted = wanted
        self.asked = self.left = False

    async def __call__(self, peer: Peer) -> None:
        await peer.until(self.wanted)
        self.asked = True
        if self.first:
            await peer.send(self.first)
        with contextlib.suppress(ConnectionError):
            await peer.rest()
        self.left = True


@pytest.mark.parametrize("way", WAYS)
async def test_client_that_leaves_while_it_waits_frees_the_node(way: str) -> None:
    watcher = Watcher(wanted=b"}")
    async with Node(watcher) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(GENERATE)
        await until(lambda: watcher.asked)

        getattr(peer, way)()

        assert await seconds_until(lambda: watcher.left) < AT_ONCE


@pytest.mark.parametrize("way", WAYS)
async def test_client_that_leaves_in_mid_stream_frees_the_node(way: str) -> None:
    watcher = Watcher(CHUNKED + chunk(b"a"), b"}")
    async with Node(watcher) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(GENERATE)
        await peer.until(chunk(b"a"))

        getattr(peer, way)()

        assert await seconds_until(lambda: watcher.left) < AT_ONCE


@pytest.mark.parametrize("way", WAYS)
async def test_client_that_leaves_in_the_middle_of_its_body_is_forgotten(way: str) -> None:
    async with Node(answering(b"")) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(GENERATE[:-5])
        await until(lambda: len(one.runtime.pipeline.running) == 1)

        getattr(peer, way)()

        assert await seconds_until(lambda: not one.runtime.pipeline.running) < AT_ONCE
        assert node.connections == 0


async def test_client_that_leaves_in_the_middle_of_an_upload_frees_the_node() -> None:
    watcher = Watcher()
    blob = post("/api/blobs/sha256:" + "0" * 64, b"x" * 100_000)
    async with Node(watcher) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(blob[:50_000])
        await until(lambda: watcher.asked)

        peer.close()

        assert await seconds_until(lambda: watcher.left) < AT_ONCE


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is seen when reading goes on")
async def test_client_that_resets_an_upload_that_is_held_back_frees_the_call() -> None:
    async def deaf(peer: Peer) -> None:
        await peer.head()
        await asyncio.Event().wait()

    blob = post("/api/blobs/sha256:" + "0" * 64, b"").replace(b"Length: 0", b"Length: 99999999")
    async with (
        Node(deaf, window=65536) as node,
        sidecar(node.port) as one,
        client(one.port) as peer,
    ):
        flood = asyncio.create_task(peer.send(blob + b"x" * 60_000_000))
        await until(lambda: any(each.flow.read_paused for each in one.guard.connections))

        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)
        peer.reset()

        assert await seconds_until(lambda: not one.runtime.pipeline.running) < AT_ONCE


async def test_client_that_leaves_while_the_node_is_connected_leaves_nothing() -> None:
    async with Node(answering(sized(b"hi"))) as node, sidecar(node.port) as one:
        for _ in range(20):
            async with client(one.port) as peer:
                await peer.send(GENERATE)
        await one.settled()

        assert (await talk(one.port, get("/x", b"Connection: close"))).endswith(b"hi")


# half-closed


async def test_half_closed_client_still_gets_a_short_answer() -> None:
    async with (
        Node(answering(sized(b"hi"))) as node,
        sidecar(node.port) as one,
        client(one.port) as peer,
    ):
        await peer.send(get("/api/version"))
        peer.half_close()

        got = await peer.rest()

    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.endswith(b"hi")


async def test_half_closed_client_gets_the_answers_of_all_it_sent() -> None:
    async with (
        Node(answering(sized(b"hi"))) as node,
        sidecar(node.port) as one,
        client(one.port) as peer,
    ):
        await peer.send(get("/api/version") * 3)
        peer.half_close()

        assert (await peer.rest()).count(b"HTTP/1.1 200 OK") == 3


async def test_half_closed_client_cancels_a_generation() -> None:
    watcher = Watcher(CHUNKED + chunk(b"a"), b"}")
    async with Node(watcher) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(GENERATE)
        await peer.until(chunk(b"a"))

        peer.half_close()

        assert await seconds_until(lambda: watcher.left) < AT_ONCE


async def test_half_closed_client_does_not_wait_for_ever() -> None:
    watcher = Watcher()
    async with Node(watcher) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(get("/api/version"))
        await until(lambda: watcher.asked)

        peer.half_close()

        assert await seconds_until(lambda: watcher.left) < AT_ONCE + 0.1
        assert await peer.ended() == "fin"


async def test_half_closed_idle_connection_is_closed() -> None:
    async with (
        Node(answering(sized(b"hi"))) as node,
        sidecar(node.port) as one,
        client(one.port) as peer,
    ):
        await peer.send(get("/api/version"))
        await peer.until(b"hi")

        peer.half_close()

        assert await seconds_until(lambda: not one.guard.connections) < AT_ONCE


# many


async def test_thousands_of_cancelled_requests_leave_the_pool_whole() -> None:
    async def slow(peer: Peer) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                await peer.head()
                await asyncio.sleep(0.01)
                await peer.send(CHUNKED + chunk(b"a"))
                await peer.send(chunk(b"b") + LAST)

    dice = random.Random(7)
    async with Node(slow) as node, sidecar(node.port) as one:
        for _ in range(60):
            await asyncio.gather(*(leaving(one.port, dice.random() * 0.02) for _ in range(50)))
        await one.settled()

        async def plain() -> bytes:
            return await talk(one.port, get("/api/version", b"Connection: close"))

        answers = [answer for _ in range(10) for answer in await asyncio.gather(plain(), plain())]
        answers += await asyncio.gather(*(plain() for _ in range(80)))

        assert len(answers) == 100
        assert all(answer.endswith(LAST) for answer in answers)
        assert one.runtime.fleets.current.local.in_flight == 0


async def leaving(port: int, seconds: float) -> None:
    async with client(port) as peer:
        await peer.send(get("/api/version"))
        await asyncio.sleep(seconds)
        peer.reset()
