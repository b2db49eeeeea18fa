"""What a crowd, a flood or a trickle may take; S numbers: docs/threat-model.md.

The bars that are times under load are those of `make chaos`.
"""

import asyncio
import contextlib
import json
import time
from pathlib import Path

import pytest

from ollama_wrap.api import guards, origins
from ollama_wrap.nodes.node import parse_nodes
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.routing.routes import parse_routes
from ollama_wrap.wire import head
from tests.fakes.cluster import cluster
from tests.fakes.raw_http import request_bytes
from tests.flow.rows import ALONE
from tests.wire.stage import LAST, Node, Peer, Script, chunk, client, post, sidecar, sized

MIB = 1024 * 1024
#: deadlines that a test can wait for
SHORT = {
    "first_byte": 0.3,
    "header_deadline": 0.3,
    "body_idle": 0.3,
    "write_stall": 0.3,
}
CHAT = b'{"model":"tiny","messages":[],"stream":false}'


def resident() -> int:
    """Bytes of memory in use; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


# ---------------------------------------------------------------- slow clients


async def silent(peer: Peer) -> None:
    await asyncio.get_running_loop().sock_recv(peer.sock, 1)


async def slow_head(peer: Peer) -> None:
    await peer.send(b"GET /api/tags HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    for number in range(200):
        await peer.send(b"X-%d: a\r\n" % number)
        await asyncio.sleep(0.05)


async def slow_body(peer: Peer) -> None:
    await peer.send(post("/api/chat", b"").replace(b"Length: 0", b"Length: 100000"))
    for _ in range(10):
        await peer.send(b"x")
        await asyncio.sleep(1)


async def attack(port: int, script: Script) -> None:
    """Go on until we are thrown out."""
    async with client(port, window=4096) as peer:
        with contextlib.suppress(ConnectionError):
            await script(peer)


@pytest.mark.parametrize("script", [silent, slow_head, slow_body], ids=lambda one: one.__name__)
async def test_slow_clients_are_thrown_out_while_others_are_served(script: Script) -> None:
    """S69."""
    async with cluster(ALONE, client=SHORT) as one:
        crowd = [asyncio.ensure_future(attack(one.port, script)) for _ in range(100)]
        await one.until(lambda: len(one.runtime.guard.connections) >= 100)

        replies = [await one.ask("POST", "/api/chat", CHAT.replace(b"tiny", b"big"))]
        async with asyncio.timeout(8):  # by themselves they would go on for longer
            await asyncio.gather(*crowd)
        replies.append(await one.chat("big"))

        assert [reply.status for reply in replies] == [200, 200]
        await one.until(lambda: not one.runtime.guard.connections)
        assert one.asked("/api/chat") == {"r1": 2}


async def test_slow_reader_is_cut_off_and_frees_its_place() -> None:
    """S69."""
    async with cluster(client=SHORT) as one:
        one.local.on(route="/big", status=200, body="x" * (8 * MIB))
        async with client(one.port, window=4096) as peer:
            await peer.send(request_bytes("GET", "/big"))
            await one.until(lambda: bool(one.runtime.pipeline.running))
            assert await peer.head()

            await one.until(lambda: not one.runtime.pipeline.running)
            assert await peer.ended() == "reset"

        line = await one.ended()
        assert line["path"] == "/big"


async def test_idle_connections_cost_little() -> None:
    """S70: the cap of an address is in tests/wire/test_guard.py."""
    async with cluster() as one, contextlib.AsyncExitStack() as stack:
        for _ in range(100):  # what the first ones cost, all later ones have
            await stack.enter_async_context(client(one.port))
        before = resident()
        for _ in range(400):
            await stack.enter_async_context(client(one.port))
        await one.until(lambda: len(one.runtime.guard.connections) == 500)

        # Ours and the client's end together; 60 MiB for 10,000 are 6 KiB each.
        assert resident() - before < 400 * 16 * 1024
        assert (await one.get("/api/version")).status == 200


# ---------------------------------------------------------------- large bodies


@pytest.mark.parametrize("chunked", [False, True], ids=["65-MiB", "endless"])
async def test_large_chat_is_streamed_to_one_node_in_little_memory(chunked: bool) -> None:
    """S71: with the limits as they are."""
    part, count = b"x" * MIB, 65
    body = b'{"model":"tiny","messages":[],"x":"'
    size = len(body) + count * MIB
    received = 0

    async def script(peer: Peer) -> None:
        nonlocal received
        await peer.head()
        while received < size:
            received += len(await peer.read(1 << 18))
        await peer.send(sized(b"hi", b"Connection: close"))

    raw = post("/api/chat", b"").replace(b"Length: 0", b"Length: %d" % size)
    if chunked:
        raw = raw.replace(b"Content-Length: %d" % size, b"Transfer-Encoding: chunked")
    async with Node(script) as node, sidecar(node.port) as one, client(one.port) as peer:
        before = most = resident()
        await peer.send(raw + (chunk(body) if chunked else body))
        for _ in range(count):
            await peer.send(chunk(part) if chunked else part)
            most = max(most, resident())
        await peer.send(LAST if chunked else b"")
        reply = await peer.until(b"hi")

        assert node.connections == 1
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    # What is kept is gathered, and joined once; the rest is the test's own.
    assert most - before < (2 * 32 + 16) * MIB


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_bodies_that_never_end_are_counted_together(chunked: bool) -> None:
    """S71: many of them, each below its own limit, hold no more than all kept bodies may."""
    limits = {"replay_limit": MIB, "replay_total": 4 * MIB}
    async with (
        cluster(upstream=limits) as one,
        contextlib.AsyncExitStack() as stack,
    ):
        raw = post("/api/chat", b"").replace(b"Length: 0", b"Length: %d" % MIB)
        if chunked:
            raw = raw.replace(b"Content-Length: %d" % MIB, b"Transfer-Encoding: chunked")
        part = b"x" * (MIB - 100)
        for _ in range(30):
            peer = await stack.enter_async_context(client(one.port))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await peer.send(raw + (chunk(part) if chunked else part))
        held = sum(each.exchange._size for each in one.runtime.guard.connections if each.exchange)

        budget = one.runtime.pipeline.budget
        assert budget.kept <= 4 * MIB + 30 * 256 * 1024
        # What is not kept waits unread for its node, 256 KiB a connection.
        assert held + budget.kept < 4 * MIB + 30 * 2 * 256 * 1024
        assert (await one.chat("tiny")).status == 200


# ---------------------------------------------------------------- many different things


async def test_made_up_names_fill_nothing() -> None:
    """S72: paths, models, keys, programs, hosts and request ids."""
    count = 1500
    async with cluster(admin_token="correct-horse-battery-staple") as one:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        for number in range(count):
            body = json.dumps({"model": f"m{number}" * 40, "messages": []}).encode()
            fields = [("Host", f"127.0.0.{number % 250}"), ("User-Agent", f"agent {number}" * 30)]
            fields += [("Authorization", f"Bearer {number}"), (f"X-{number}", "a")]
            fields += [("X-Request-ID", f"{number}" * 20)]
            path = "/api/show" if number % 2 else f"/x/{number}"
            writer.write(request_bytes("POST", path, body, fields))
            await reader.readuntil(b"\r\n\r\n")
            await _rest(reader)
        writer.close()
        for number in range(50):
            await one.get("/x", [("Origin", f"https://{number}.example")])
        await one.ended(count)

        samples = sum(map(len, one.runtime.metrics.as_dict().values()))
        assert samples <= 2000
        assert max(map(len, one.written.getvalue().splitlines())) <= 2048
        assert len(one.runtime.guard.heads) <= head.KNOWN
        door = one.runtime.door
        assert len(door._entries) <= guards.KEPT
        assert len(door._origins._kept) <= origins.KEPT


async def _rest(reader: asyncio.StreamReader) -> None:
    """What is left of an answer, as far as it is here."""
    await asyncio.sleep(0)
    if reader._buffer:  # type: ignore[attr-defined]
        await reader.read(65_536)


@pytest.mark.parametrize("pattern", ["a*" * 40 + "b", "*a" * 60, "[" * 40, "(a+)+$", "a" * 5000])
def test_pattern_of_an_operator_cannot_be_made_to_take_long(pattern: str) -> None:
    """S75: patterns are those of shells; nobody else may give one."""
    name = "a" * 5000
    (node,) = parse_nodes(json.dumps([{"url": "http://h:1", "models": [pattern]}]))
    rules = parse_routes(json.dumps({pattern: ["local"]}))
    began = time.monotonic()

    upstream = Upstream(node)
    upstream._patterns.match(name)  # type: ignore[union-attr]
    for rule in rules:
        rule.matches([name])

    assert time.monotonic() - began < 1
