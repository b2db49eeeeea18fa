"""Deadlines and caps of clients, with times that are short enough for a test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ollama_wrap.wire import guard, inbound
from ollama_wrap.wire.base import Exchange, Framing, Pace
from ollama_wrap.wire.exchange import InboundExchange
from ollama_wrap.wire.guard import Guard, Limits, Upload
from ollama_wrap.wire.head import Sizes
from tests.wire.stage import (
    HOST,
    Node,
    Peer,
    answering,
    client,
    get,
    listening,
    post,
    sidecar,
    sized,
    talk,
    until,
)

#: nothing of this limits anybody
CALM = Limits(body=Upload(60.0, 0, 60.0), blob=Upload(60.0, 0, 60.0), marks=(64 * 1024, 16 * 1024))


class Stand:
    """The inbound protocol with a guard whose time a test moves."""

    def __init__(self, limits: Limits) -> None:
        self.guard = Guard(limits)
        self.exchanges: list[Exchange] = []
        self.left = 0
        self.port = 0

    def take(self, exchange: Exchange) -> bool:
        self.exchanges.append(exchange)
        exchange.gone = self._gone
        return True

    def _gone(self) -> None:
        self.left += 1

    def pass_by(self, seconds: float, step: float = 0.25) -> None:
        """Time goes on; the sweeps see it."""
        now = asyncio.get_running_loop().time()
        passed = 0.0
        while passed < seconds:
            passed += step
            self.guard.sweep(now + passed, step)

    async def connected(self, count: int = 1) -> None:
        await until(lambda: len(self.guard.connections) == count)


@contextlib.asynccontextmanager
async def stand(limits: Limits = CALM) -> AsyncIterator[Stand]:
    one = Stand(limits)
    async with listening(one.take, one.guard) as one.port:
        yield one


def refused(got: bytes, status: int) -> bool:
    return got.startswith(b"HTTP/1.1 %d " % status) and b"Connection: close\r\n" in got


def answer(exchange: Exchange, body: bytes = b"hi") -> None:
    exchange.begin(200, b"OK", [(b"Content-Length", b"%d" % len(body))], Framing.LENGTH)
    exchange.feed([body])
    exchange.end()


# heads


async def test_silent_connection_is_closed_without_a_word() -> None:
    """S69."""
    async with stand() as one, client(one.port) as peer:
        await one.connected()
        one.pass_by(9.5)
        assert await peer.quiet(0.02)
        one.pass_by(10.5)

        assert await peer.rest() == b""


async def test_nobody_is_late_after_this_process_has_slept() -> None:
    async with stand(replace(CALM, first_byte=10.0)) as one, client(one.port) as peer:
        await one.connected()
        later = asyncio.get_running_loop().time() + 60

        one.guard.forgive(later)
        one.guard.sweep(later + 0.25, 0.25)
        assert await peer.quiet(0.02)
        one.guard.sweep(later + 11, 0.25)

        assert await peer.rest() == b""


async def test_head_has_an_absolute_deadline() -> None:
    """S69."""
    async with stand() as one, client(one.port) as peer:
        await peer.send(b"GET / HT")
        await until(lambda: any(each.receiving for each in one.guard.connections))
        one.pass_by(9.0)
        await peer.send(b"TP/1.1\r\nX: ")
        await asyncio.sleep(0.02)
        one.pass_by(10.5)

        assert refused(await peer.rest(), 408)
    assert one.exchanges == []


async def test_served_connection_may_be_idle_for_longer() -> None:
    async with stand() as one, client(one.port) as peer:
        await peer.send(get("/x"))
        await until(lambda: len(one.exchanges) == 1)
        answer(one.exchanges[0])
        await peer.until(b"hi")
        one.pass_by(179.0)
        assert await peer.quiet(0.02)
        one.pass_by(181.0)

        assert await peer.rest() == b""


async def test_waiting_for_an_answer_has_no_deadline() -> None:
    async with stand() as one, client(one.port) as peer:
        await peer.send(get("/x"))
        await until(lambda: len(one.exchanges) == 1)

        one.pass_by(10_000.0, 10.0)

        assert await peer.quiet(0.02)
        answer(one.exchanges[0])
        await peer.until(b"hi")


async def test_times_that_are_zero_are_off() -> None:
    off = replace(CALM, first_byte=0.0, header_deadline=0.0, keepalive_idle=0.0)
    async with stand(off) as one, client(one.port) as peer, client(one.port) as other:
        await peer.send(b"GET")
        await one.connected(2)
        one.pass_by(10_000.0, 10.0)

        assert await peer.quiet(0.02)
        assert await other.quiet(0.02)


# bodies

UPLOAD = post("/x", b"").replace(b"Length: 0", b"Length: 100000")


async def uploading(one: Stand, peer: Peer, *, pace: Pace = Pace.BRIEF) -> InboundExchange:
    await peer.send(UPLOAD)
    await until(lambda: len(one.exchanges) == 1)
    exchange = one.exchanges[0]
    assert isinstance(exchange, InboundExchange)
    exchange.pace = pace
    return exchange


@pytest.mark.parametrize("pace, seconds", [(Pace.BRIEF, 30.0), (Pace.BULK, 60.0)])
async def test_body_that_stops_is_a_408(pace: Pace, seconds: float) -> None:
    """S69."""
    limits = replace(CALM, body=Upload(30.0, 0, 90.0), blob=Upload(60.0, 0, 90.0))
    async with stand(limits) as one, client(one.port) as peer:
        await uploading(one, peer, pace=pace)
        one.pass_by(seconds - 0.5)
        assert one.left == 0
        one.pass_by(seconds + 0.5)

        assert refused(await peer.rest(), 408)
    assert one.left == 1


@pytest.mark.parametrize("pace, seconds", [(Pace.BRIEF, 10.0), (Pace.BULK, 60.0)])
async def test_body_that_drips_is_a_408(pace: Pace, seconds: float) -> None:
    """S69."""
    limits = replace(CALM, body=Upload(1000.0, 1024, 10.0), blob=Upload(1000.0, 1024, 60.0))
    async with stand(limits) as one, client(one.port) as peer:
        exchange = await uploading(one, peer, pace=pace)
        await peer.send(b"x" * 1000)
        await until(lambda: exchange._size == 1000)
        one.pass_by(seconds - 0.5)
        assert one.left == 0
        one.pass_by(0.5)

        assert refused(await peer.rest(), 408)


async def test_body_that_keeps_its_rate_is_taken() -> None:
    limits = replace(CALM, body=Upload(1000.0, 1024, 10.0))
    async with stand(limits) as one, client(one.port) as peer:
        exchange = await uploading(one, peer)
        for count in range(1, 6):
            await peer.send(b"x" * 11_000)
            await until(lambda count=count: exchange._size == 11_000 * count)  # type: ignore[misc]
            one.pass_by(10.0)

        assert one.left == 0
        assert await peer.quiet(0.02)


async def test_whole_body_may_have_a_deadline() -> None:
    async with stand(replace(CALM, body_total=5.0)) as one, client(one.port) as peer:
        await uploading(one, peer)
        one.pass_by(5.5)

        assert refused(await peer.rest(), 408)


async def test_body_that_we_hold_back_ourselves_is_not_slow() -> None:
    limits = replace(CALM, body=Upload(30.0, 1024, 10.0), body_total=40.0)
    async with stand(limits) as one, client(one.port) as peer:
        await peer.send(UPLOAD.replace(b"100000", b"90000000"))
        flood = asyncio.create_task(peer.send(b"x" * 5_000_000))
        await until(lambda: any(each.flow.read_paused for each in one.guard.connections))

        one.pass_by(1000.0)

        assert one.left == 0
        flood.cancel()
        await asyncio.gather(flood, return_exceptions=True)


async def test_client_that_waits_for_a_continue_is_not_slow() -> None:
    async with stand(replace(CALM, body=Upload(30.0, 1024, 10.0))) as one, client(one.port) as peer:
        await peer.send(UPLOAD.replace(HOST, HOST + b"Expect: 100-continue\r\n"))
        await until(lambda: len(one.exchanges) == 1)

        one.pass_by(1000.0)

        assert one.left == 0
        assert await peer.quiet(0.02)


async def test_body_that_stops_after_its_answer_began_is_a_reset() -> None:
    async with stand(replace(CALM, body=Upload(30.0, 0, 90.0))) as one, client(one.port) as peer:
        exchange = await uploading(one, peer)
        exchange.begin(200, b"OK", [], Framing.CHUNKED)
        exchange.feed([b"abc"])
        await peer.until(b"abc\r\n")
        one.pass_by(31.0)

        assert await peer.ended() == "reset"
    assert one.left == 1


# readers


async def stalled(one: Stand, peer: Peer, *, pace: Pace = Pace.LONG) -> Exchange:
    await peer.send(get("/x"))
    await until(lambda: len(one.exchanges) == 1)
    exchange = one.exchanges[0]
    exchange.pace = pace
    exchange.begin(200, b"OK", [], Framing.CHUNKED)
    while not exchange.paused:
        exchange.feed([b"x" * 65536])
    return exchange


@pytest.mark.parametrize("pace, seconds", [(Pace.LONG, 60.0), (Pace.BULK, 600.0)])
async def test_reader_that_takes_nothing_is_cut_off(pace: Pace, seconds: float) -> None:
    """S69."""
    async with stand() as one, client(one.port, window=4096) as peer:
        await stalled(one, peer, pace=pace)
        one.pass_by(seconds - 1.0)
        assert one.left == 0
        one.pass_by(seconds + 1.0)

        await until(lambda: one.left == 1)
        assert await peer.ended() == "reset"


async def test_reader_that_takes_a_little_is_served_on() -> None:
    wide = replace(CALM, marks=(32 * 1024 * 1024, 16 * 1024))
    async with stand(wide) as one, client(one.port, window=65536) as peer:
        await stalled(one, peer)
        (connection,) = one.guard.connections
        size = connection.transport.get_write_buffer_size
        now = asyncio.get_running_loop().time()
        for _ in range(3):
            one.guard.sweep(now, 0.25)
            before = size()
            while size() == before:
                await peer.read()
            now += 59.0
        assert (one.left, size() > 0) == (0, True)

        one.guard.sweep(now, 0.25)
        one.guard.sweep(now + 61.0, 0.25)

        await until(lambda: one.left == 1)


async def test_reader_that_never_takes_the_end_is_cut_off() -> None:
    async with stand() as one, client(one.port, window=4096) as peer:
        exchange = await stalled(one, peer)
        exchange.keep_alive = False
        exchange.end()
        one.pass_by(1.0)
        assert len(one.guard.connections) == 1
        one.pass_by(62.0)

        await until(lambda: not one.guard.connections)
        assert await peer.ended() == "reset"


async def test_early_reply_lingers_for_half_a_second() -> None:
    async with stand() as one, client(one.port) as peer:
        answer(await uploading(one, peer))
        await peer.until(b"hi")
        assert await peer.rest() == b""
        one.pass_by(0.25)
        assert len(one.guard.connections) == 1
        one.pass_by(0.75)

        await until(lambda: not one.guard.connections)


async def test_all_streams_together_may_hold_only_so_much() -> None:
    limits = replace(CALM, marks=(1024 * 1024, 256 * 1024), buffered=3 * 1024 * 1024)
    async with stand(limits) as one, contextlib.AsyncExitStack() as stack:
        for count in range(1, 5):
            peer = await stack.enter_async_context(client(one.port, window=4096))
            await peer.send(get("/x"))
            await until(lambda count=count: len(one.exchanges) == count)  # type: ignore[misc]
        for exchange in one.exchanges:
            exchange.begin(200, b"OK", [], Framing.CHUNKED)
        for exchange in one.exchanges[:3]:
            while not exchange.paused:
                exchange.feed([b"x" * 65536])
        last = one.exchanges[3]
        last.feed([b"x" * 4_000_000])  # more than kernels take, then 64 KiB more at a time

        one.pass_by(0.25)

        assert one.guard.marks == guard.NARROW
        assert last.paused


# caps


async def test_one_connection_too_many_is_turned_away() -> None:
    async with stand(replace(CALM, connections=2)) as one, client(one.port), client(one.port):
        await one.connected(2)

        got = await talk(one.port, get("/x"))

        assert refused(got, 503)
        assert b"\r\nRetry-After: 1\r\n" in got
    assert one.exchanges == []


async def test_one_request_too_many_is_turned_away_before_its_body_is_read() -> None:
    """S16."""
    async with stand(replace(CALM, streams=1)) as one, client(one.port) as peer:
        await peer.send(get("/x"))
        await until(lambda: len(one.exchanges) == 1)

        raw = UPLOAD.replace(HOST, HOST + b"Expect: 100-continue\r\n")
        got = await talk(one.port, raw)
        answer(one.exchanges[0])
        await peer.until(b"hi")
        await peer.send(get("/x"))
        await until(lambda: len(one.exchanges) == 2)

        assert refused(got, 503)
        assert b"100 Continue" not in got


async def test_unfinished_requests_get_half_of_the_connections() -> None:
    async with stand(replace(CALM, connections=4)) as one, contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(client(one.port)) for _ in range(4)]
        for count, peer in enumerate(peers[1:], 1):
            await peer.send(b"GET /x")
            await until(
                lambda count=count: sum(c.receiving for c in one.guard.connections) == count  # type: ignore[misc]
            )
            await asyncio.sleep(0.002)

        one.pass_by(0.25)

        assert refused(await peers[1].rest(), 503)
        assert await peers[2].quiet(0.02)
        assert await peers[0].quiet(0.02)


class Addressed(Guard):
    """As if every client came from the address that its turn says."""

    def __init__(self, limits: Limits, *addresses: str) -> None:
        super().__init__(limits, {"192.0.2.9"}.__contains__)
        self._addresses = iter(addresses)

    def admit(self, connection: inbound.Inbound) -> object:  # type: ignore[override]
        connection.address = next(self._addresses)
        return super().admit(connection)


@pytest.mark.parametrize(
    "address, other, full",
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::1", True),
        # Machines of one network share a /64.
        ("2001:db8::1", "2001:db8::2", False),
        ("192.0.2.9", "192.0.2.9", False),
        ("127.0.0.1", "127.0.0.1", False),
        ("::1", "::1", False),
    ],
)
async def test_one_address_may_have_only_so_many_connections(
    address: str, other: str, full: bool
) -> None:
    """S70."""
    limits = replace(CALM, connections_per_address=2)
    addressed = Addressed(limits, address, address, "192.0.2.2", other)
    one = Stand(limits)
    async with listening(one.take, addressed) as port, client(port), client(port), client(port):
        await until(lambda: len(addressed.connections) == 3)

        async with client(port) as peer:
            await peer.send(get("/x"))
            if full:
                assert refused(await peer.rest(), 503)
            else:
                await until(lambda: len(one.exchanges) == 1)
    assert addressed._by_address == {}


async def test_sizes_of_heads_are_those_of_the_limits() -> None:
    sizes = Sizes(head=2000, field=200, target=100, fields=5)
    async with stand(replace(CALM, sizes=sizes)) as one:
        assert refused(await talk(one.port, get("/" + "a" * 100)), 414)
        assert refused(await talk(one.port, get("/x", b"X: " + b"a" * 200)), 431)
        assert refused(await talk(one.port, get("/x", *[b"X: a"] * 5)), 431)
        assert refused(await talk(one.port, b"GET / HTTP/1.1\r\nX: " + b"a" * 2000), 431)
    assert one.exchanges == []


async def test_settings_reach_the_guard() -> None:
    settings = {
        "client": {"first_byte": 0.1, "max_fields": 3, "max_streams": 7, "body_min_rate": 5},
        "upstream": {"relay_high": 4096, "relay_low": 1024, "tcp_idle": 9.0},
    }
    async with Node(answering(sized(b"hi"))) as node, sidecar(node.port, **settings) as one:
        limits = one.guard.limits
        async with client(one.port) as silent:
            assert await silent.rest() == b""
        too_many = await talk(one.port, get("/x", *[b"X: a"] * 3))

    assert refused(too_many, 431)
    assert (limits.streams, limits.body.rate, limits.marks) == (7, 5, (4096, 1024))


async def test_thousands_of_idle_connections_are_swept_quickly() -> None:
    async with stand() as one, contextlib.AsyncExitStack() as stack:
        for _ in range(500):
            await stack.enter_async_context(client(one.port))
        await one.connected(500)
        loop = asyncio.get_running_loop()
        began = loop.time()

        for _ in range(10):
            one.guard.sweep(loop.time(), 0.25)

        assert loop.time() - began < 0.5
