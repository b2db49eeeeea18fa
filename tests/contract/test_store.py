"""What every Store promises, asked of each of them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollama_wrap.errors import Conflict
from ollama_wrap.state import STORES, open_store
from ollama_wrap.state.base import Store
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=sorted(STORES))
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock
) -> AsyncIterator[Store]:
    opened = open_store(request.param, tmp_path, clock)
    yield opened
    await opened.close()


async def test_what_was_set_is_got(store: Store) -> None:
    await store.set("k", b"\x00one\xff")
    await store.set("k", b"two")
    await store.set("empty", b"")

    assert await store.get("k") == b"two"
    assert await store.get("empty") == b""
    assert await store.get("other") is None


async def test_value_expires_after_its_time_to_live(store: Store, clock: FakeClock) -> None:
    await store.set("k", b"v", ttl=10)

    clock.advance(9.5)
    assert await store.get("k") == b"v"
    clock.advance(0.5)
    assert await store.get("k") is None
    assert await store.scan("") == []
    assert not await store.delete("k")


async def test_setting_again_without_ttl_keeps_the_value_for_good(
    store: Store, clock: FakeClock
) -> None:
    await store.set("k", b"v", ttl=10)
    await store.set("k", b"w")

    clock.advance(1000)

    assert await store.get("k") == b"w"


async def test_delete_says_whether_there_was_something(store: Store) -> None:
    await store.set("k", b"v")

    assert await store.delete("k")
    assert not await store.delete("k")
    assert await store.get("k") is None


async def test_scan_finds_a_prefix_in_the_order_of_the_keys(store: Store, clock: FakeClock) -> None:
    for key in ("a:2", "b:1", "a:1", "a", "a%:x", "a:3"):
        await store.set(key, key.encode(), ttl=5 if key == "a:3" else None)

    clock.advance(5)

    assert await store.scan("a:") == [("a:1", b"a:1"), ("a:2", b"a:2")]
    assert [key for key, _ in await store.scan("a%")] == ["a%:x"]
    assert [key for key, _ in await store.scan("")] == ["a", "a%:x", "a:1", "a:2", "b:1"]


async def test_add_counts_from_nothing(store: Store) -> None:
    assert await store.add("n") == 1
    assert await store.add("n", 41) == 42
    assert await store.add("n", -2) == 40
    assert await store.get("n") == b"40"


async def test_add_keeps_the_time_to_live_of_the_first(store: Store, clock: FakeClock) -> None:
    await store.add("n", ttl=10)
    clock.advance(6)
    await store.add("n", ttl=10)

    clock.advance(4)

    assert await store.add("n") == 1


async def test_add_to_something_else_is_a_conflict(store: Store) -> None:
    await store.set("k", b"text")

    with pytest.raises(Conflict):
        await store.add("k")

    assert await store.get("k") == b"text"


async def test_many_additions_at_once_lose_none(store: Store) -> None:
    numbers = await asyncio.gather(*(store.add("n") for _ in range(50)))

    assert sorted(numbers) == list(range(1, 51))


async def test_swap_needs_the_value_that_is_there(store: Store) -> None:
    await store.swap("k", None, b"one")
    await store.swap("k", b"one", b"two")

    with pytest.raises(Conflict):
        await store.swap("k", b"one", b"three")
    with pytest.raises(Conflict):
        await store.swap("k", None, b"three")

    assert await store.get("k") == b"two"


async def test_one_of_two_swaps_at_once_wins(store: Store) -> None:
    ends = await asyncio.gather(
        *(store.swap("k", None, b"%d" % n, ttl=9) for n in range(2)), return_exceptions=True
    )

    assert [type(end) for end in ends if end is not None] == [Conflict]
    assert await store.get("k") == b"%d" % ends.index(None)


async def test_expired_value_is_nothing_to_a_swap(store: Store, clock: FakeClock) -> None:
    await store.swap("lease", None, b"mine", ttl=10)

    clock.advance(10)
    await store.swap("lease", None, b"yours", ttl=10)

    assert await store.get("lease") == b"yours"


async def test_expire_begins_a_new_time_to_live(store: Store, clock: FakeClock) -> None:
    await store.set("k", b"v", ttl=10)
    clock.advance(9)

    assert await store.expire("k", 10)
    clock.advance(9)
    assert await store.get("k") == b"v"
    assert await store.expire("k", None)
    clock.advance(1000)
    assert await store.get("k") == b"v"
    assert not await store.expire("gone", 10)


async def test_closing_twice_is_fine(store: Store) -> None:
    await store.close()
    await store.close()
