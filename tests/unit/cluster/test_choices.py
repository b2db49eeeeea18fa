import asyncio
from dataclasses import replace

import pytest

from ollama_wrap.call import Mode
from ollama_wrap.cluster.choices import Choices, Overridable
from ollama_wrap.cluster.events import ChoiceMade, Events
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.memory import MemoryBus, MemoryStore
from ollama_wrap.state.names import FALLBACK_CHOICE, MODE_CHOICE
from tests.fakes.clock import FakeClock

SETTINGS = Overridable(distributed=None, standalone=False, fallback=True)


class Store(MemoryStore):
    """Can be away, and can be slow: then it waits for `go`."""

    def __init__(self) -> None:
        super().__init__(FakeClock())
        self.away = False
        self.go = asyncio.Event()
        self.go.set()

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        await self.go.wait()
        if self.away:
            raise StoreUnavailable("the disk is full")
        await super().set(key, value, ttl)

    async def get(self, key: str) -> bytes | None:
        if self.away:
            raise StoreUnavailable("the disk is gone")
        return await super().get(key)


class Sidecar:
    """Choices with everything they need; remembers each mode that was put in force."""

    def __init__(self, store: Store, settings: Overridable = SETTINGS) -> None:
        self.store = store
        self.bus = MemoryBus()
        self.events = Events(self.bus, "tower", FakeClock())
        self.in_force: list[tuple[Mode | None, bool]] = []
        self.choices = Choices(store, settings, self.events, self.enforce)

    def enforce(self) -> None:
        self.in_force.append((self.choices.mode, self.choices.fallback))

    async def told(self, count: int) -> list[object]:
        heard = await self.events.listen()
        task = asyncio.create_task(self.events.run())
        news = [await anext(heard) for _ in range(count)]
        task.cancel()
        return [each.event for each in news]


@pytest.fixture
async def store() -> Store:
    return Store()


async def after_restart(store: Store, settings: Overridable = SETTINGS) -> Choices:
    choices = Sidecar(store, settings).choices
    await choices.load()
    return choices


async def test_without_a_choice_the_settings_hold(store: Store) -> None:
    on = await after_restart(store)
    off = await after_restart(store, replace(SETTINGS, fallback=False))

    assert (on.mode, on.fallback) == (None, True)
    assert (off.mode, off.fallback) == (None, False)


async def test_choice_is_in_force_announced_and_outlives_a_restart(store: Store) -> None:
    sidecar = Sidecar(store)

    await sidecar.choices.choose_mode(Mode.STANDALONE)
    await sidecar.choices.choose_fallback(enabled=False)
    await sidecar.choices.choose_mode(Mode.LOCAL)

    again = await after_restart(store)
    assert sidecar.in_force == [
        (Mode.STANDALONE, True), (Mode.STANDALONE, False), (Mode.LOCAL, False),
    ]  # fmt: skip
    assert await sidecar.told(3) == [
        ChoiceMade("mode", "standalone", None),
        ChoiceMade("fallback", "false", None),
        ChoiceMade("mode", "local", "standalone"),
    ]
    assert (again.mode, again.fallback) == (Mode.LOCAL, False)


@pytest.mark.parametrize(
    "changed, mode, fallback",
    [
        (replace(SETTINGS, distributed=True), None, False),
        (replace(SETTINGS, distributed=False), None, False),
        (replace(SETTINGS, standalone=True), None, False),
        (replace(SETTINGS, fallback=False), Mode.LOCAL, False),
    ],
)
async def test_choice_is_dropped_for_good_when_its_setting_has_changed(
    store: Store, changed: Overridable, mode: Mode | None, fallback: bool
) -> None:
    sidecar = Sidecar(store)
    await sidecar.choices.choose_mode(Mode.LOCAL)
    await sidecar.choices.choose_fallback(enabled=False)

    then = await after_restart(store, changed)
    back = await after_restart(store)

    assert (then.mode, then.fallback) == (mode, fallback)
    assert back.mode == mode
    assert back.fallback is (changed.fallback is False)


async def test_choice_that_cannot_be_stored_changes_nothing(store: Store) -> None:
    sidecar = Sidecar(store)
    await sidecar.choices.choose_mode(Mode.LOCAL)
    store.away = True

    with pytest.raises(StoreUnavailable):
        await sidecar.choices.choose_mode(Mode.DISTRIBUTED)
    with pytest.raises(StoreUnavailable):
        await sidecar.choices.choose_fallback(enabled=False)

    store.away = False
    again = await after_restart(store)
    assert (sidecar.choices.mode, sidecar.choices.fallback) == (Mode.LOCAL, True)
    assert sidecar.in_force == [(Mode.LOCAL, True)]
    assert (again.mode, again.fallback) == (Mode.LOCAL, True)


async def test_nothing_is_in_force_before_it_is_stored(store: Store) -> None:
    sidecar = Sidecar(store)
    store.go.clear()
    asking = asyncio.create_task(sidecar.choices.choose_mode(Mode.LOCAL))
    for _ in range(5):
        await asyncio.sleep(0)

    before = sidecar.choices.mode
    store.go.set()
    await asking

    assert (before, sidecar.choices.mode) == (None, Mode.LOCAL)


async def test_caller_who_leaves_does_not_part_stored_from_in_force(store: Store) -> None:
    sidecar = Sidecar(store)
    store.go.clear()
    asking = asyncio.create_task(sidecar.choices.choose_mode(Mode.LOCAL))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    store.go.set()
    await sidecar.told(1)

    again = await after_restart(store)
    assert sidecar.choices.mode is Mode.LOCAL
    assert again.mode is Mode.LOCAL


async def test_of_two_choices_at_once_the_last_stored_is_in_force(store: Store) -> None:
    sidecar = Sidecar(store)
    modes = (Mode.LOCAL, Mode.STANDALONE, Mode.DISTRIBUTED, Mode.LOCAL, Mode.STANDALONE)

    await asyncio.gather(*(sidecar.choices.choose_mode(mode) for mode in modes))

    again = await after_restart(store)
    assert sidecar.choices.mode is again.mode
    assert len(sidecar.in_force) == len(modes)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[]", b'{"value":"fast","over":""}', b'{"value":1,"over":""}', b'{"over":""}'],
)
async def test_unreadable_choice_is_said_and_dropped(
    store: Store, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    await store.set(MODE_CHOICE, content)
    await store.set(FALLBACK_CHOICE, content)

    choices = await after_restart(store)

    assert (choices.mode, choices.fallback) == (None, True)
    assert caplog.text.count("cannot be read: dropped") == 2
    assert await store.scan("") == []


async def test_store_that_cannot_be_read_is_the_caller_s_to_judge(store: Store) -> None:
    store.away = True

    with pytest.raises(StoreUnavailable):
        await after_restart(store)


async def test_choice_over_a_setting_that_is_read_anew_as_it_was_holds_on(store: Store) -> None:
    choices = Sidecar(store).choices
    await choices.choose_mode(Mode.LOCAL)

    choices.obey(replace(SETTINGS, fallback=False))

    assert (choices.mode, choices.fallback) == (Mode.LOCAL, False)


async def test_choice_over_a_setting_that_has_changed_is_dropped_here_and_in_the_store(
    store: Store,
) -> None:
    choices = Sidecar(store).choices
    await choices.choose_mode(Mode.LOCAL)
    await choices.choose_fallback(enabled=False)

    choices.obey(replace(SETTINGS, standalone=True))
    dropped = choices.mode
    await asyncio.sleep(0.01)

    assert dropped is None
    assert not choices.fallback
    assert await store.get(MODE_CHOICE) is None
    # Not even where the setting is later what it was when it was chosen over.
    assert (await after_restart(store)).mode is None


async def test_choice_that_is_made_while_the_last_one_is_forgotten_holds(store: Store) -> None:
    choices = Sidecar(store).choices
    await choices.choose_mode(Mode.LOCAL)
    changed = replace(SETTINGS, standalone=True)

    choices.obey(changed)
    await choices.choose_mode(Mode.DISTRIBUTED)
    await asyncio.sleep(0.01)

    assert choices.mode is Mode.DISTRIBUTED
    assert (await after_restart(store, changed)).mode is Mode.DISTRIBUTED
