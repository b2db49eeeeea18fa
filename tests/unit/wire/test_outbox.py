"""Short writes of one turn of the loop."""

import asyncio
from typing import cast

from ollama_wrap.wire import outbox
from ollama_wrap.wire.outbox import LONG, Outbox


class Wires:
    """Keeps what was written to any of its transports, in order."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def one(self, name: str) -> asyncio.Transport:
        return cast("asyncio.Transport", Wire(self, name))


class Wire:
    def __init__(self, wires: Wires, name: str) -> None:
        self._wires, self._name = wires, name
        self.closing = False

    def write(self, data: bytes) -> None:
        if data == b"too late":
            raise RuntimeError("write after its end")
        self._wires.sent.append((self._name, data))

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self._wires.sent.append((self._name, b"aborted"))


async def test_short_writes_wait_for_the_end_of_the_turn_and_keep_their_order() -> None:
    wires, box = Wires(), Outbox(asyncio.get_running_loop())
    first, second = wires.one("first"), wires.one("second")

    box.write(first, b"1")
    box.write(second, b"2")
    box.write(first, b"3")
    before = list(wires.sent)
    await asyncio.sleep(0)

    assert before == []
    assert wires.sent == [("first", b"1"), ("second", b"2"), ("first", b"3")]


async def test_writes_to_one_behind_the_other_are_one() -> None:
    wires, box = Wires(), Outbox(asyncio.get_running_loop())
    wire = wires.one("a")

    box.write(wire, b"last piece")
    box.write(wire, b" and end")
    box.flush()

    assert wires.sent == [("a", b"last piece and end")]


async def test_long_write_goes_at_once_behind_those_that_wait() -> None:
    wires, box = Wires(), Outbox(asyncio.get_running_loop())
    first, second = wires.one("first"), wires.one("second")

    box.write(first, b"1")
    box.write(second, b"x" * (LONG + 1))

    assert [name for name, _ in wires.sent] == ["first", "second"]


async def test_transport_that_has_closed_meanwhile_is_passed_over() -> None:
    wires, box = Wires(), Outbox(asyncio.get_running_loop())
    closed, still = wires.one("closed"), wires.one("still")
    box.write(closed, b"1")
    box.write(still, b"2")

    cast("Wire", closed).closing = True
    box.flush()

    assert wires.sent == [("still", b"2")]


async def test_one_that_takes_no_more_does_not_cost_the_others_their_bytes() -> None:
    wires, box = Wires(), Outbox(asyncio.get_running_loop())

    box.write(wires.one("ended"), b"too late")
    box.write(wires.one("other"), b"1")
    box.flush()

    assert wires.sent == [("ended", b"aborted"), ("other", b"1")]


async def test_write_after_a_flush_goes_out_in_this_turn_too() -> None:
    wires, box = Wires(), Outbox(asyncio.get_running_loop())
    wire = wires.one("a")
    box.write(wire, b"1")
    box.flush()

    box.write(wire, b"2")
    await asyncio.sleep(0)

    assert wires.sent == [("a", b"1"), ("a", b"2")]


async def test_all_connections_on_a_loop_share_one() -> None:
    loop = asyncio.get_running_loop()

    assert outbox.of(loop) is outbox.of(loop)
