"""What connections see while memory or files are short."""

import asyncio

import pytest

from ollama_wrap.observe.pressure import Measure
from ollama_wrap.wire import guard
from ollama_wrap.wire.guard import affordable
from tests.wire.stage import client, get, until
from tests.wire.test_guard import Stand, answer, stand


def put(one: Stand, *measures: Measure) -> None:
    one.guard.strain.put(frozenset(measures))


async def test_connection_ends_after_its_answer_while_files_are_short() -> None:
    async with stand() as one, client(one.port) as peer:
        await peer.send(get("/x"))
        await until(lambda: len(one.exchanges) == 1)
        answer(one.exchanges[0])
        kept = await peer.until(b"hi")

        put(one, Measure.BRIEF)
        await peer.send(get("/x"))
        await until(lambda: len(one.exchanges) == 2)
        answer(one.exchanges[1])
        last = await peer.rest()

    assert b"Connection" not in kept
    assert b"Connection: close\r\n" in last
    assert last.endswith(b"hi")


@pytest.mark.parametrize("measure", [Measure.BRIEF, Measure.HANG_UP])
async def test_idle_connections_are_closed_while_something_is_short(measure: Measure) -> None:
    async with stand() as one, client(one.port) as idle, client(one.port) as busy:
        await busy.send(get("/x"))
        await until(lambda: len(one.exchanges) == 1)
        await one.connected(2)
        one.pass_by(9.0)
        assert await idle.quiet(0.02)

        put(one, measure)
        one.pass_by(1.5)

        assert await idle.rest() == b""
        assert await busy.quiet(0.02)
        answer(one.exchanges[0])
        await busy.until(b"hi")


async def test_connection_that_has_just_become_idle_is_left_alone() -> None:
    async with stand() as one, client(one.port) as peer:
        put(one, Measure.HANG_UP)
        await one.connected()

        one.pass_by(0.75)

        assert await peer.quiet(0.02)


async def test_buffers_are_narrow_while_memory_is_short() -> None:
    wide = guard.Limits()
    async with stand(wide) as one, client(one.port) as peer:
        await one.connected()
        put(one, Measure.SPARE)
        one.pass_by(0.25)
        (connection,) = one.guard.connections
        narrow = connection.transport.get_write_buffer_limits()

        put(one)
        one.pass_by(0.25)
        again = connection.transport.get_write_buffer_limits()
        assert await peer.quiet(0.0)

    assert sorted(narrow) == [64 * 1024, 256 * 1024]
    assert sorted(again) == sorted(wide.marks)


async def test_buffers_that_are_narrow_already_are_not_widened() -> None:
    limits = guard.Limits(marks=(32 * 1024, 8 * 1024))
    async with stand(limits) as one:
        put(one, Measure.SPARE)
        one.pass_by(0.25)

        assert one.guard.marks == limits.marks
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "wanted, files, connections",
    [
        (12_000, None, 12_000),
        (12_000, 65_536, 12_000),
        (12_000, 20_000, 9_872),
        (12_000, 1024, 384),
        (12_000, 256, 64),
        (12_000, 64, 64),
        (30_000, 65_536, 30_000),
        (10, 1024, 10),
    ],
)
def test_connections_are_as_many_as_the_files_allow(
    wanted: int, files: int | None, connections: int
) -> None:
    assert affordable(wanted, files) == connections
