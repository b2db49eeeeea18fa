from ollama_wrap.state.memory import SWEEP_AFTER, MemoryStore
from tests.fakes.clock import FakeClock


async def test_expired_entries_do_not_pile_up() -> None:
    clock = FakeClock()
    store = MemoryStore(clock)

    for n in range(10 * SWEEP_AFTER):
        await store.set(f"k{n}", b"v", ttl=1)
        clock.advance(0.01)

    assert len(store) <= SWEEP_AFTER + 100
