import pytest

from ollama_wrap.cluster.sightings import Sighting, Sightings
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.memory import MemoryStore
from ollama_wrap.state.names import seen
from tests.fakes.clock import FakeClock

DAY = 24 * 3600.0
WALL = 1_700_000_000.0


class Store(MemoryStore):
    """Counts writes, and can be away."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.away = False
        self.writes = 0

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        if self.away:
            raise StoreUnavailable("the disk is full")
        self.writes += 1
        await super().set(key, value, ttl)

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        if self.away:
            raise StoreUnavailable("the disk is gone")
        return await super().scan(prefix)


async def restarted(store: Store, wall: float = WALL) -> Sightings:
    sightings = Sightings(store, DAY)
    await sightings.load(wall)
    return sightings


async def test_what_was_seen_is_known_after_a_restart() -> None:
    store = Store()
    sightings = Sightings(store, DAY)
    sightings.saw("r/1", {"m": WALL}, WALL)
    await sightings.save()

    known = await restarted(store)

    assert known.of("r/1") == Sighting({"m": WALL}, WALL)
    assert known.of("r2") is None


async def test_model_seen_more_than_a_day_ago_is_forgotten() -> None:
    store = Store()
    sightings = Sightings(store, DAY)
    sightings.saw("r1", {"old": WALL - DAY, "new": WALL}, WALL)
    await sightings.save()

    known = await restarted(store, WALL + 60)

    assert known.of("r1") == Sighting({"new": WALL}, WALL)


async def test_the_same_again_is_not_written_for_a_minute() -> None:
    store = Store()
    sightings = Sightings(store, DAY)

    for second in range(0, 60, 2):
        sightings.saw("r1", {"m": WALL + second}, WALL + second)
        await sightings.save()
    assert store.writes == 1

    sightings.saw("r1", {"m": WALL + 60}, WALL + 60)
    await sightings.save()
    assert store.writes == 2


async def test_new_model_is_written_at_once() -> None:
    store = Store()
    sightings = Sightings(store, DAY)
    sightings.saw("r1", {"m": WALL}, WALL)
    await sightings.save()

    sightings.saw("r1", {"m": WALL + 1, "n": WALL + 1}, WALL + 1)
    await sightings.save()

    assert (await restarted(store)).of("r1") == Sighting({"m": WALL + 1, "n": WALL + 1}, WALL + 1)


async def test_last_answer_of_a_lost_node_is_written_to_the_second() -> None:
    store = Store()
    sightings = Sightings(store, DAY)
    sightings.saw("r1", {"m": WALL}, WALL)
    await sightings.save()

    for _ in range(3):
        sightings.lost("r1", {"m": WALL}, WALL + 14)
        await sightings.save()

    assert (await restarted(store)).of("r1") == Sighting({"m": WALL}, WALL + 14)
    assert store.writes == 2


async def test_what_could_not_be_written_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    sightings = Sightings(store, DAY)
    sightings.saw("r1", {"m": WALL}, WALL)
    store.away = True
    await sightings.save()
    await sightings.save()

    store.away = False
    await sightings.save()

    assert (await restarted(store)).of("r1") == Sighting({"m": WALL}, WALL)
    assert len(caplog.records) == 1


async def test_store_that_is_away_at_start_is_no_obstacle() -> None:
    store = Store()
    store.away = True

    known = await restarted(store)

    assert known.of("r1") is None


async def test_stored_nonsense_is_passed_over() -> None:
    store = Store()
    await store.set(seen("r1"), b"\xff{")
    await store.set(seen("r2"), b'["r2",{"models":{"m":1700000000.0}}]')

    known = await restarted(store)

    assert known.of("r1") is None
    assert known.of("r2") == Sighting({"m": WALL})
