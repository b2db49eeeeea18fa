import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from ollama_wrap import tasks
from ollama_wrap.backends.base import Probe
from ollama_wrap.backends.openai import OpenAI
from ollama_wrap.cluster.sightings import Sightings
from ollama_wrap.cluster.watch import Around, Flag, Watch
from ollama_wrap.config.groups import Health as Rules
from ollama_wrap.errors import (
    BadReply,
    ConnectFailed,
    StreamBroken,
    UpstreamError,
    UpstreamTimeout,
)
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.node import Node, NodeKind, local_node
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.nodes.verdict import Blame, Verdict
from ollama_wrap.state.memory import MemoryStore
from tests.fakes.backend import ADDRESS, FakeBackend, in_memory, model
from tests.fakes.clock import FakeClock, settle

REFUSED = ConnectFailed("refused")
SILENT = UpstreamTimeout("no answer within 1.5 s")
TINY = "registry.ollama.ai/library/tiny:latest"


class Backend(FakeBackend):
    """`hangs`: each probe takes all the time that it may, and then there is no answer."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.hangs = False

    async def probe(self, seconds: float, *, ping: bool) -> Probe:
        if not self.hangs:
            return await super().probe(seconds, ping=ping)
        self.asked.append("ping" if ping else "probe")
        await self.clock.sleep(seconds)
        raise SILENT


class Place:
    """A Watch of one node, and all that it needs."""

    def __init__(self, node: Node) -> None:
        self.clock = FakeClock()
        self.backend = Backend(self.clock)
        self.dice = 0.5
        self.names: dict[str, tuple[str, ...]] = {}
        self.lookups: list[str] = []
        self.found: list[str] = []
        self.sightings = Sightings(MemoryStore(self.clock), 86400.0)
        self.upstream = Upstream(node)
        around = Around(
            clock=self.clock,
            rules=Rules(),
            backend=lambda _: self.backend,
            lookup=self.lookup,
            dice=lambda: self.dice,
            ourselves=lambda sidecar: sidecar.id == "me",
            found=self.found.append,
        )
        self.watch = Watch(self.upstream, around, self.sightings)

    async def lookup(self, host: str) -> tuple[str, ...]:
        self.lookups.append(host)
        return self.names.get(host, ())

    @property
    def state(self) -> NodeState:
        return self.upstream.state

    def sidecar(self, **facts: object) -> None:
        said = replace(Sidecar("tower", "boot-1"), **facts)  # type: ignore[arg-type]
        self.backend.ping = Probe(ADDRESS, sidecar=said, wall=self.clock.now())

    async def up(self) -> None:
        self.watch.start()
        await self.clock.run(3.0)
        assert self.state is NodeState.UP
        self.backend.asked.clear()


Make = Callable[[Node], Place]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    places: list[Place] = []

    def made(node: Node) -> Place:
        places.append(Place(node))
        return places[-1]

    yield made
    for place in places:
        await place.watch.stop()


@pytest.fixture
def place(make: Make) -> Place:
    return make(Node("r1", "http", ADDRESS, 11434))


@pytest.fixture
def local(make: Make) -> Place:
    return make(local_node("me", "http://127.0.0.1:11436", None))


# ---------------------------------------------------------------- rhythm


async def test_node_is_probed_at_once_and_then_every_two_seconds(place: Place) -> None:
    await place.up()

    await place.clock.run(20.0)

    assert place.backend.times("probe") == 10


async def test_node_that_fails_is_probed_sooner_and_is_down_within_four_seconds(
    place: Place,
) -> None:
    await place.up()

    place.backend.says = REFUSED
    await place.clock.run(4.0)

    assert place.state is NodeState.DOWN
    assert place.upstream.health.error == "refused"


async def test_suspected_node_is_down_within_a_second_and_a_half(place: Place) -> None:
    await place.up()
    place.backend.says = REFUSED

    place.watch.doubt()
    await settle()
    first = place.state
    await place.clock.run(1.5)

    assert first is NodeState.SUSPECT
    assert place.state is NodeState.DOWN


async def test_node_that_hangs_is_down_within_eight_seconds_also_at_the_worst(place: Place) -> None:
    place.dice = 1.0
    await place.up()
    while not place.backend.asked:
        await place.clock.run(0.1)

    place.backend.hangs = True  # it has just answered, and the next pause is the longest there is
    await place.clock.run(7.5)
    before = place.state
    await place.clock.run(0.5)

    assert (before, place.state) == (NodeState.SUSPECT, NodeState.DOWN)


async def test_node_that_was_frozen_is_back_soon_after_it_goes_on(place: Place) -> None:
    await place.up()
    place.backend.hangs = True
    await place.clock.run(30.0)

    place.backend.hangs = False
    await place.clock.run(5.0)
    back = place.state
    await place.clock.run(35.0)

    assert (back, place.state) == (NodeState.WARMING, NodeState.UP)


async def test_many_calls_that_suspect_a_node_do_not_become_many_probes(place: Place) -> None:
    await place.up()

    for _ in range(500):
        place.watch.doubt()
        place.watch.hasten()
        await place.clock.run(0.002)

    assert place.backend.times("probe") <= 11
    assert place.backend.most_at_once == 1


async def test_sleeping_node_is_probed_every_thirty_seconds_until_asked_for(place: Place) -> None:
    place.backend.says = SILENT
    place.watch.start()
    await place.clock.run(900.0)
    place.backend.asked.clear()

    await place.clock.run(305.0)
    assert place.backend.times("ping") + place.backend.times("probe") == 10
    place.watch.hasten()
    await settle()
    assert place.backend.times("ping") + place.backend.times("probe") == 11


async def test_returning_node_is_warming_within_five_seconds(place: Place) -> None:
    await place.up()
    place.backend.says = REFUSED
    await place.clock.run(30.0)

    place.backend.says = Probe(ADDRESS, version="0.33.0")
    await place.clock.run(5.0)

    assert place.state is NodeState.WARMING


async def test_caller_that_waits_for_a_probe_gets_one_that_began_after_it_asked(
    place: Place,
) -> None:
    await place.up()
    place.backend.free.clear()
    await place.clock.run(2.5)
    under_way = place.backend.times("probe")
    waiting = _started(place)

    place.backend.free.set()
    await settle()
    early = waiting.done()
    await place.clock.run(0.1)

    assert under_way == 1
    assert not early
    assert waiting.done()
    assert place.backend.times("probe") == 2


async def test_callers_that_wait_for_a_probe_are_let_go_when_the_node_is_left(
    place: Place,
) -> None:
    await place.up()
    place.backend.free.clear()
    waiting = _started(place)
    await place.clock.run(3.0)

    await place.watch.stop()
    await settle()

    assert waiting.done()
    assert place.backend.closed


async def test_fault_of_ours_does_not_end_the_watch(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    await place.up()
    place.backend.says = RuntimeError("a bug")  # type: ignore[assignment]

    await place.clock.run(4.0)
    place.backend.says = REFUSED
    await place.clock.run(4.0)

    assert place.state is NodeState.DOWN
    assert "watching r1 failed" in caplog.text


async def test_first_probe_is_said_even_if_it_failed(local: Place) -> None:
    local.backend.says = REFUSED
    local.watch.start()

    await settle()

    assert local.watch.first.is_set()


async def test_node_of_a_sort_that_cannot_be_asked_is_shown_and_never_asked(make: Make) -> None:
    place = make(Node("vendor", "https", "api.example", 443, kind=NodeKind.OPENAI))
    place.watch._backend = OpenAI(None)
    place.watch.start()

    await place.clock.run(60.0)
    await place.watch.probed()

    assert place.state is NodeState.DOWN
    assert place.upstream.health.error == "nodes with kind=openai cannot be asked yet"
    assert place.lookups == []


# ---------------------------------------------------------------- sidecars


async def test_plain_node_is_asked_for_a_ping_at_first_contact_and_each_minute(
    place: Place,
) -> None:
    place.watch.start()

    await place.clock.run(59.0)
    assert place.backend.times("ping") == 1
    await place.clock.run(4.0)
    assert place.backend.times("ping") == 2
    assert place.backend.times("probe") > 25


async def test_sidecar_is_pinged_each_time_and_what_it_says_is_kept(place: Place) -> None:
    place.sidecar(in_flight=3, slots=4)
    place.watch.start()

    await place.clock.run(10.0)

    assert place.backend.times("probe") == 0
    assert place.upstream.sidecar is not None
    assert (place.upstream.sidecar.in_flight, place.upstream.sidecar.slots) == (3, 4)


async def test_sidecar_that_was_removed_is_a_plain_node(place: Place) -> None:
    place.sidecar()
    await place.up()

    place.backend.ping = None
    await place.clock.run(3.0)

    assert place.upstream.sidecar is None
    assert place.state is NodeState.UP


async def test_sidecar_without_its_ollama_is_down_for_calls_but_still_pinged(place: Place) -> None:
    place.sidecar()
    await place.up()

    place.sidecar(ollama=False)
    await place.clock.run(20.0)

    assert place.state is NodeState.DOWN
    assert place.upstream.health.state is NodeState.UP
    assert place.backend.times("ping") > 8


async def test_sidecar_of_another_protocol_is_incompatible(place: Place) -> None:
    place.sidecar(proto=(2, 3), ollama=False)
    place.watch.start()

    await place.clock.run(3.0)

    assert place.state is NodeState.INCOMPATIBLE
    assert place.backend.times("models") == 0


@pytest.mark.parametrize(
    "ahead, flags", [(4.0, set()), (6.0, {Flag.CLOCK_SKEW}), (-6.0, {Flag.CLOCK_SKEW})]
)
async def test_clock_of_a_sidecar_that_differs_is_flagged(
    place: Place, ahead: float, flags: set[Flag]
) -> None:
    place.backend.ping = Probe(ADDRESS, sidecar=Sidecar("tower"), wall=place.clock.now() + ahead)
    place.watch.start()

    await settle()

    assert place.watch.flags == flags
    assert place.upstream.health.error is None


async def test_flag_goes_when_the_clock_was_set(place: Place) -> None:
    place.backend.ping = Probe(ADDRESS, sidecar=Sidecar("tower"), wall=0.0)
    await place.up()

    place.backend.ping = Probe(ADDRESS, sidecar=Sidecar("tower"), wall=place.clock.now())
    await place.clock.run(2.0)

    assert place.watch.flags == set()


async def test_entry_that_leads_to_ourselves_is_told_once_and_never_up(place: Place) -> None:
    place.backend.ping = Probe(ADDRESS, sidecar=Sidecar("me"))
    place.watch.start()

    await place.clock.run(10.0)

    assert place.found == ["r1"]
    assert place.upstream.sidecar is None
    assert place.state is NodeState.JOINING
    assert place.backend.times("models") == 0


# ---------------------------------------------------------------- lists


async def test_lists_are_read_after_the_first_answer(place: Place) -> None:
    place.backend.has = (model("tiny"),)
    place.backend.runs = (in_memory("tiny"),)
    place.watch.start()

    await place.clock.run(0.2)

    assert place.upstream.inventory.holds(TINY)
    assert place.upstream.inventory.has_loaded(TINY)
    assert place.upstream.inventory.version == "0.33.0"


async def test_lists_of_a_plain_node_are_read_every_ten_seconds(place: Place) -> None:
    await place.up()

    await place.clock.run(60.0)

    assert place.backend.times("models") == place.backend.times("loaded") == 6


async def test_lists_of_a_sidecar_are_read_every_five_seconds_and_when_it_says_so(
    place: Place,
) -> None:
    place.sidecar(models_version="1")
    await place.up()
    await place.clock.run(60.0)
    assert 11 <= place.backend.times("models") <= 12

    read = place.backend.times("models")
    place.sidecar(models_version="2")
    await place.clock.run(2.1)
    assert place.backend.times("models") > read
    assert place.upstream.inventory.version == "0.33.0"


async def test_what_is_loaded_here_is_read_every_five_seconds(local: Place) -> None:
    await local.up()

    await local.clock.run(60.0)

    assert local.backend.times("loaded") == 12
    assert local.backend.times("models") == 6


async def test_lists_are_read_at_once_when_asked_for(place: Place) -> None:
    await place.up()
    place.backend.has = (model("new"),)

    place.watch.reread()
    await settle()

    assert place.upstream.inventory.holds("registry.ollama.ai/library/new:latest")


async def test_caller_that_waits_for_lists_gets_some_that_were_asked_for_after_it_did(
    place: Place,
) -> None:
    await place.up()
    place.backend.listing.clear()
    place.watch.reread()
    await place.clock.run(0.2)
    place.backend.has = (model("tiny"),)

    waiting = tasks.start(place.watch.listed(), "waiting")
    await place.clock.run(0.2)
    early = waiting.done()
    place.backend.listing.set()
    await place.clock.run(0.2)

    assert (early, waiting.done(), place.backend.times("models")) == (False, True, 2)


async def test_loaded_models_are_read_at_once_after_a_cold_call_but_not_after_each(
    place: Place,
) -> None:
    await place.up()

    for _ in range(4):
        place.watch.warmed(TINY)
        await place.clock.run(0.2)

    assert place.backend.asked.count("loaded") == 1


async def test_model_that_leaves_memory_lets_others_try_again(place: Place) -> None:
    place.backend.has = (model("tiny"), model("big", "d2"))
    place.backend.runs = (in_memory("tiny"),)
    await place.up()
    big, now = place.backend.has[1].key, place.clock.monotonic()
    place.upstream.record(Verdict(Blame.MODEL_DOUBLE), big, now, place.clock.now())
    cooled = place.upstream.cooling(big, now)

    place.backend.runs = ()
    place.watch.reread()
    await place.clock.run(0.2)

    assert (cooled, place.upstream.cooling(big, now)) == (True, False)


async def test_lists_are_read_at_once_when_a_restarted_ollama_is_another_version(
    place: Place,
) -> None:
    await place.up()

    place.backend.says = Probe(ADDRESS, version="0.34.0")
    await place.clock.run(2.1)

    assert place.backend.times("models") == 1
    assert place.upstream.inventory.version == "0.34.0"


async def test_dead_node_is_not_asked_for_lists_and_read_again_when_it_is_back(
    place: Place,
) -> None:
    place.backend.has = (model("tiny"),)
    await place.up()
    place.backend.says = REFUSED
    await place.clock.run(4.0)
    place.backend.asked.clear()

    await place.clock.run(60.0)
    assert place.backend.times("models") == 0
    assert place.upstream.inventory.holds(TINY)
    place.backend.says = Probe(ADDRESS, version="0.33.0")
    await place.clock.run(0.6)
    assert place.backend.times("models") == 1


async def test_models_of_a_node_that_is_away_for_a_day_are_forgotten(place: Place) -> None:
    place.backend.has = (model("tiny"),)
    await place.up()
    place.backend.says = REFUSED
    await place.clock.run(4.0)

    place.clock.advance(86400.0)
    await settle()

    assert not place.upstream.inventory.holds(TINY)


async def test_list_that_cannot_be_read_is_no_empty_list_and_takes_the_node_down(
    place: Place,
) -> None:
    place.backend.has = (model("tiny"),)
    await place.up()

    place.backend.has = BadReply("not a list of models")
    await place.clock.run(15.0)

    assert place.state is NodeState.DOWN
    assert place.upstream.health.error == "not a list of models"
    assert place.upstream.inventory.holds(TINY)
    assert place.backend.times("models") <= 2


async def test_node_whose_list_can_be_read_again_comes_back(place: Place) -> None:
    await place.up()
    place.backend.has = BadReply("not a list of models")
    await place.clock.run(15.0)

    place.backend.has = ()
    await place.clock.run(15.0)

    assert place.state is NodeState.WARMING
    assert place.watch.flags == set()


async def test_list_that_takes_too_long_flags_a_slow_disk_and_changes_nothing_else(
    place: Place,
) -> None:
    place.backend.has = (model("tiny"),)
    await place.up()

    place.backend.has = UpstreamTimeout("no answer within 5 s")
    await place.clock.run(15.0)
    assert place.watch.flags == {Flag.SLOW_DISK}
    assert place.upstream.slow_disk
    assert place.state is NodeState.UP
    assert place.upstream.inventory.holds(TINY)

    place.backend.has = (model("tiny"),)
    await place.clock.run(11.0)
    assert place.watch.flags == set()
    assert not place.upstream.slow_disk


async def test_list_that_is_refused_leaves_what_is_known(place: Place) -> None:
    place.backend.has = (model("tiny"),)
    await place.up()

    place.backend.has = UpstreamError("/api/tags answered 500")
    await place.clock.run(15.0)

    assert place.state is NodeState.UP
    assert place.upstream.inventory.holds(TINY)
    assert place.watch.flags == set()


@pytest.mark.parametrize("error", [REFUSED, StreamBroken("reset")])
async def test_connection_that_fails_for_a_list_is_a_failed_probe(
    place: Place, error: UpstreamError
) -> None:
    await place.up()
    place.backend.has = error

    place.watch.reread()
    await settle()

    assert place.state is NodeState.SUSPECT


async def test_slow_list_does_not_hold_up_probes(place: Place) -> None:
    await place.up()
    place.backend.listing.clear()
    place.watch.reread()

    await place.clock.run(10.0)

    assert place.backend.times("models") == 1
    assert place.backend.times("probe") == 5


async def test_what_was_seen_is_remembered_to_the_last_answer(place: Place) -> None:
    place.backend.has = (model("tiny"),)
    await place.up()
    await place.clock.run(20.0)
    answered = place.upstream.health.last_seen_wall

    place.backend.says = REFUSED
    await place.clock.run(10.0)

    known = place.sightings.of("r1")
    assert known is not None
    assert known.answered == answered
    assert TINY in known.models


# ---------------------------------------------------------------- addresses


async def test_literal_address_is_there_before_anything_is_asked(place: Place) -> None:
    place.watch.start()

    assert place.upstream.addresses == (ADDRESS,)


async def test_name_is_looked_up_and_the_node_probed_as_soon_as_it_is_known(make: Make) -> None:
    place = make(Node("r1", "http", "tower.lan", 11434))
    place.names["tower.lan"] = ("fd00::7", ADDRESS)
    told: list[str] = []
    place.upstream.changed.subscribe(lambda: told.append("changed"))
    place.backend.says = REFUSED
    place.watch.start()

    await settle()

    assert place.upstream.addresses == ("fd00::7", ADDRESS)
    assert told


async def test_address_that_answered_comes_first(make: Make) -> None:
    place = make(Node("r1", "http", "tower.lan", 11434))
    place.names["tower.lan"] = ("fd00::7", ADDRESS)
    place.watch.start()

    await place.clock.run(3.0)
    assert list(place.upstream.addresses) == [ADDRESS, "fd00::7"]
    place.names["tower.lan"] = ("fd00::7", "fd00::8", ADDRESS)
    await place.clock.run(30.0)
    assert list(place.upstream.addresses) == [ADDRESS, "fd00::7", "fd00::8"]


async def test_name_that_does_not_resolve_any_more_keeps_its_addresses(make: Make) -> None:
    place = make(Node("r1", "http", "tower.lan", 11434))
    place.names["tower.lan"] = (ADDRESS,)
    await place.up()

    place.names.clear()
    await place.clock.run(60.0)

    assert place.upstream.addresses == (ADDRESS,)
    assert place.state is NodeState.UP
    assert len(place.lookups) == 3


async def test_name_is_looked_up_again_when_no_connection_can_be_made(make: Make) -> None:
    place = make(Node("r1", "http", "tower.lan", 11434))
    place.names["tower.lan"] = (ADDRESS,)
    await place.up()
    await place.clock.run(5.0)

    place.names["tower.lan"] = ("10.0.0.8",)
    place.backend.says = REFUSED
    await place.clock.run(2.5)

    assert place.upstream.addresses == ("10.0.0.8",)


def _started(place: Place) -> asyncio.Task[None]:
    return tasks.start(place.watch.probed(), "waiting for a probe")
