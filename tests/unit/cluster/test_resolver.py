import asyncio
import socket

import pytest

from ollama_wrap.cluster.resolver import AT_ONCE, Resolver, literal
from tests.fakes.clock import settle

Found = list[tuple[int, int, int, str, tuple[object, ...]]]


class Loop:
    """The part of the loop that looks names up; `names` is what the system knows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[str]] = {}
        self.free = asyncio.Event()
        self.free.set()
        self.under_way = 0
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.getaddrinfo)

    async def getaddrinfo(self, host: str, port: None, *, type: int) -> Found:
        self.under_way += 1
        await self.free.wait()
        self.under_way -= 1
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(0, type, 6, "", (address, 0)) for address in self.names[host]]


@pytest.fixture
async def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return Loop(monkeypatch)


@pytest.mark.parametrize(
    "host, addresses",
    [
        ("10.0.0.7", ("10.0.0.7",)),
        ("fd00::1", ("fd00::1",)),
        ("localhost", ("127.0.0.1", "::1")),
        ("tower.lan", ()),
        ("256.1.1.1", ()),
    ],
)
def test_address_and_localhost_need_no_lookup(host: str, addresses: tuple[str, ...]) -> None:
    assert literal(host) == addresses


async def test_addresses_of_both_families_come_once_and_in_order(loop: Loop) -> None:
    loop.names["tower.lan"] = ["fd00::7", "10.0.0.7", "fd00::7"]

    assert await Resolver()("tower.lan") == ("fd00::7", "10.0.0.7")


@pytest.mark.parametrize("host", ["gone.lan", "a" * 70 + ".lan"])
async def test_name_that_cannot_be_looked_up_has_no_addresses(loop: Loop, host: str) -> None:
    assert await Resolver()(host) == ()


async def test_hanging_lookups_leave_threads_to_others(loop: Loop) -> None:
    loop.free.clear()
    resolver = Resolver()
    lookups = [asyncio.ensure_future(resolver(f"n{number}.lan")) for number in range(10)]

    await settle()

    assert loop.under_way == AT_ONCE
    loop.free.set()
    assert await asyncio.gather(*lookups) == [()] * 10
