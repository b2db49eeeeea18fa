"""Bodies over 1 MiB: read while they come, kept in parts, sent as they came."""

import asyncio
import base64
import gc
import hashlib
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
import zstandard

from ollama_wrap.call import LongBody
from tests.fakes.cluster import Cluster, cluster, host, serving
from tests.flow.rows import BIG, PAIR, told
from tests.wire.stage import LAST, Node, Peer, chunk, client, post, sidecar, sized, talk

MIB = 1024 * 1024
HOSTS = {"local": host("other"), "r1": host("big"), "r2": host("small")}


def image(size: int) -> str:
    """So many bytes of base64, no two parts of them alike."""
    return base64.b64encode(random.Random(size).randbytes(size * 3 // 4)).decode()


def chat(size: int, model: str = "big", **more: object) -> bytes:
    """A chat with a picture of `size` bytes, its model at the end."""
    message = {"role": "user", "content": 'a "{[\\', "images": [image(size)]}
    fields = {"stream": False, "messages": [message], **more, "model": model}
    return json.dumps(fields).encode()


def hashes(one: Cluster, node: str, path: str = "/api/chat") -> list[str]:
    return [entry.body_sha256 for entry in one[node].ledger.to(path)]


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def test_body_of_32_mib_goes_as_it_came_where_the_model_at_its_end_is() -> None:
    body = chat(32 * MIB - 1000)
    async with cluster(HOSTS) as one:
        reply = await one.ask("POST", "/api/chat", body)

        assert told(reply)[:2] == (200, "r1")
        assert hashes(one, "r1") == [sha256(body)]
        assert one.asked("/api/chat") == {"r1": 1}
        assert (await one.ended())["model"] == "big"


@pytest.mark.parametrize("http", ["h11", "httptools"])
async def test_plain_asgi_server_takes_long_bodies_too(http: str) -> None:
    body = chat(3 * MIB)

    def serve(runtime: Any, sock: Any) -> Any:
        return serving(runtime, sock, http)

    async with cluster(HOSTS, serve=serve) as one:
        reply = await one.ask("POST", "/api/chat", body)

        assert told(reply)[:2] == (200, "r1")
        assert hashes(one, "r1") == [sha256(body)]


async def test_long_body_is_sent_again_where_the_first_node_fails() -> None:
    body = chat(5 * MIB)
    async with cluster(PAIR) as one:
        one["r1"].on(route="/api/chat", failure="busy")
        reply = await one.ask("POST", "/api/chat", body)

        assert told(reply)[:2] == (200, "r2")
        assert hashes(one, "r1") == hashes(one, "r2") == [sha256(body)]


async def test_long_body_is_sent_again_where_a_node_goes_in_its_middle() -> None:
    body = chat(8 * MIB)
    async with cluster(PAIR) as one:

        async def die() -> None:
            await one.until(lambda: one.upstream("r1").in_flight > 0)
            one["r1"].die()

        dying = asyncio.ensure_future(die())
        reply = await one.ask("POST", "/api/chat", body)
        await dying

        assert told(reply)[:2] == (200, "r2")
        assert hashes(one, "r2") == [sha256(body)]


async def test_nothing_but_the_name_of_a_long_body_is_changed() -> None:
    body = chat(3 * MIB, "gpt-4", options={"model": "gpt-4"})
    rule = {"routes": "gpt-4*=r1;model=big"}
    async with cluster(HOSTS, routing=rule) as one:
        reply = await one.ask("POST", "/api/chat", body)

        assert told(reply)[:2] == (200, "r1")
        changed = body[:-8] + b'"big"}'
        assert body.endswith(b'"gpt-4"}')
        assert hashes(one, "r1") == [sha256(changed)]


async def test_long_body_above_the_replay_limit_goes_once_to_its_model() -> None:
    body = b'{"model":"big",' + chat(4 * MIB)[1:]
    async with cluster(PAIR, upstream={"replay_limit": 2 * MIB}) as one:
        one["r1"].on(route="/api/chat", failure="busy")
        reply = await one.ask("POST", "/api/chat", body)

        assert told(reply)[:2] == (503, "r1")
        assert hashes(one, "r1") == [sha256(body)]
        assert one.asked("/api/chat") == {"r1": 1}


async def test_model_that_comes_far_behind_is_found_above_the_replay_limit() -> None:
    body = chat(5 * MIB) + b" " * 4 * MIB
    async with cluster(HOSTS, upstream={"replay_limit": 2 * MIB}) as one:
        async with one.open(
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        ) as said:
            said.writer.write(chunk(body) + LAST)
            reply = await said.reply()

        assert told(reply)[:2] == (200, "r1")
        assert hashes(one, "r1") == [sha256(body)]


async def test_long_body_that_asks_for_no_work_unloads() -> None:
    body = b'{"keep_alive":0,"messages":[],"model":"big","x":"%b"}' % (b"y" * 2 * MIB)
    async with cluster(PAIR) as one:
        await one.chat("big")
        await one.until(lambda: one.upstream("r1").inventory.has_loaded(BIG))
        reply = await one.ask("POST", "/api/chat", body)

        assert json.loads(reply.body)["done_reason"] == "unload"
        assert hashes(one, "r1")[1:] == [sha256(body)]
        await one.until(lambda: one["r1"].ledger.counts.unloads == 1)


async def test_long_form_goes_where_its_model_is() -> None:
    fields = b'Content-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--X'
    audio = fields % (b'file"; filename="a.wav', random.Random(1).randbytes(3 * MIB))
    body = b"--X\r\n%b\r\n%b--\r\n" % (audio, fields % (b"model", b"big"))
    path, kind = "/v1/audio/transcriptions", "multipart/form-data; boundary=X"
    async with cluster(HOSTS) as one:
        reply = await one.ask("POST", path, body, [("Content-Type", kind)])

        assert reply.header("x-ollama-node") == "r1"
        assert hashes(one, "r1", path) == [sha256(body)]


async def test_long_body_in_zstd_goes_where_its_model_is() -> None:
    words = {"input": image(4 * MIB), "model": "big"}
    body = zstandard.compress(json.dumps(words).encode())
    assert len(body) > 2 * MIB
    async with cluster(HOSTS) as one:
        reply = await one.ask("POST", "/v1/responses", body, [("Content-Encoding", "zstd")])

        assert reply.header("x-ollama-node") == "r1"
        assert hashes(one, "r1", "/v1/responses") == [sha256(body)]


async def test_long_body_that_is_no_json_is_a_matter_of_our_own_ollama() -> None:
    body = chat(2 * MIB)[:-1]
    async with cluster(HOSTS) as one:
        reply = await one.ask("POST", "/api/chat", body)

        assert told(reply)[:2] == (400, "tower")
        assert hashes(one, "local") == [sha256(body)]


async def test_long_body_is_let_go_when_its_call_is_over() -> None:
    async with cluster(HOSTS) as one:
        gc.collect()
        gc.disable()
        try:
            await one.ask("POST", "/api/chat", chat(2 * MIB))
            await one.settled()
            left = [1 for each in gc.get_objects() if isinstance(each, LongBody)]
        finally:
            gc.enable()

    assert left == []


# ---------------------------------------------------------------- on raw sockets


class Taker:
    """A node that reads a body and answers; `delay`: seconds before it begins to read."""

    def __init__(self, size: int, delay: float = 0.0) -> None:
        self.size, self.delay = size, delay
        self.got = hashlib.sha256()

    async def __call__(self, peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(self.delay)
        left = self.size
        while left:
            piece = await peer.read(min(left, 1 << 18))
            left -= len(piece)
            self.got.update(piece)
        await peer.send(sized(b'{"done":true}', b"Connection: close"))


def split(body: bytes, sizes: Sequence[int]) -> list[bytes]:
    """Pieces of so many bytes each, and the rest."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(body[at : at + size])
        at += size
    return [*pieces, body[at:]]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_body_in_tiny_pieces_around_its_borders_arrives_whole(chunked: bool) -> None:
    body = chat(2 * MIB)
    tiny = [1, 1, 2, 3, 7] * 20
    sizes = [*tiny, 65536 - 280, *tiny, MIB - 65536 - 300, *tiny, 256 * 1024, *tiny]
    pieces = [*split(body, sizes)[:-1], *split(body[sum(sizes) :], [len(body) - sum(sizes) - 50])]
    last = pieces.pop()
    pieces += [last[at : at + 1] for at in range(len(last))]
    head = post("/api/chat", b"", b"Connection: close")
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    head = head.replace(b"Content-Length: 0", length)
    taker = Taker(len(body))
    async with Node(taker) as node, sidecar(node.port) as one, client(one.port) as peer:
        await peer.send(head, *(chunk(each) if chunked else each for each in pieces))
        await peer.send(LAST if chunked else b"")

        assert (await peer.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"".join(pieces) == body
    assert taker.got.hexdigest() == sha256(body)


async def test_node_that_reads_late_gets_a_long_body_whole() -> None:
    body = chat(24 * MIB)
    taker = Taker(len(body), delay=0.3)
    async with Node(taker, window=65536) as node, sidecar(node.port) as one:
        got = await talk(one.port, post("/api/chat", body, b"Connection: close"))

        assert node.connections == 1
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert taker.got.hexdigest() == sha256(body)


async def test_node_that_answers_before_it_has_read_a_long_body_is_asked_anew() -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(sized(b'{"done":true}'))
        await peer.ended()

    async with Node(script, window=65536) as node, sidecar(node.port) as one:
        for _ in range(2):
            got = await talk(one.port, post("/api/chat", chat(24 * MIB), b"Connection: close"))
            assert got.endswith(b'{"done":true}')

        assert node.connections == 2


async def test_long_body_lets_others_have_their_turn() -> None:
    body = chat(32 * MIB - 1000)
    taker = Taker(len(body))
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    async with Node(taker) as node, sidecar(node.port) as one:
        gc.collect()
        watching = asyncio.ensure_future(watch())
        await talk(one.port, post("/api/chat", body, b"Connection: close"))
        watching.cancel()

    assert taker.got.hexdigest() == sha256(body)
    # Work of client and node, which are here too, is counted with ours.
    assert longest < 0.015
