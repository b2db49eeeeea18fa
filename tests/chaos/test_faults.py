"""The fault proxy does what it says; everything else here trusts it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from tests.chaos.faults import Fault, FaultProxy

ANSWER = bytes(range(200))


@contextlib.asynccontextmanager
async def asked(fault: Fault) -> AsyncIterator[tuple[asyncio.StreamReader, FaultProxy]]:
    """A client of the proxy that has asked a target which answers ANSWER once and stays."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if await reader.read(1):
                writer.write(ANSWER)
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, FaultProxy(server.sockets[0].getsockname()[1]) as proxy:
        proxy.fault = fault
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"?")
        yield reader, proxy
        writer.close()


async def read(reader: asyncio.StreamReader, most: int = 1000) -> tuple[bytes, str]:
    """What comes within a fifth of a second, and how it ended: open, fin or reset."""
    got = b""
    try:
        async with asyncio.timeout(0.2):
            while piece := await reader.read(most):
                got += piece
    except TimeoutError:
        return got, "open"
    except ConnectionError:
        return got, "reset"
    return got, "fin"


@pytest.mark.parametrize(
    "fault, got, end",
    [
        (Fault(), 200, "open"),
        (Fault(slices=7), 200, "open"),
        (Fault(reset=0), 0, "reset"),
        (Fault(reset=1), 1, "reset"),
        (Fault(reset=50, slices=20), 50, "reset"),
        (Fault(reset=200), 200, "reset"),
        (Fault(half_close=30), 30, "fin"),
        (Fault(black_hole=40), 40, "open"),
        (Fault(deaf_to_client=True), 0, "open"),
        (Fault(deaf_to_target=True), 0, "open"),
        (Fault(refuse=True), 0, "reset"),
        (Fault(latency=1.0), 0, "open"),
    ],
)
async def test_answer_comes_as_far_as_its_fault_lets_it(fault: Fault, got: int, end: str) -> None:
    async with asked(fault) as (reader, _):
        assert await read(reader) == (ANSWER[:got], end)


async def test_one_byte_is_another() -> None:
    async with asked(Fault(corrupt=17)) as (reader, _):
        got, _ = await read(reader)

        assert [at for at in range(200) if got[at] != ANSWER[at]] == [17]


async def test_bytes_come_slowly_where_the_bandwidth_is_small() -> None:
    async with asked(Fault(bandwidth=1000, slices=20)) as (reader, _):
        began = time.monotonic()

        await reader.readexactly(200)

        assert time.monotonic() - began >= 0.17


async def test_who_was_connected_before_is_known_no_more() -> None:
    async with asked(Fault()) as (reader, proxy):
        await reader.readexactly(200)
        proxy.fault = Fault(rebooted=True)
        before = await read(reader)
        fresh, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"?")

        assert before == (b"", "open")
        assert await read(fresh) == (ANSWER, "open")
        writer.close()


@pytest.mark.parametrize("fault", [Fault(deaf_to_target=True), Fault(black_hole=60)])
async def test_healing_lets_go_what_was_held_back(fault: Fault) -> None:
    async with asked(fault) as (reader, proxy):
        before, _ = await read(reader)

        proxy.fault = Fault()

        assert (before + (await read(reader))[0], len(before)) == (ANSWER, fault.black_hole or 0)
