from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ollama_wrap import tasks
from ollama_wrap.backends.base import Probe
from ollama_wrap.call import Mode
from ollama_wrap.cluster.prober import Prober
from ollama_wrap.cluster.sightings import Sightings
from ollama_wrap.cluster.watch import Around, Flag
from ollama_wrap.config.groups import Circuit
from ollama_wrap.config.groups import Health as Rules
from ollama_wrap.errors import ConnectFailed
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.node import Node, local_node
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.state.memory import MemoryStore
from tests.fakes.backend import ADDRESS, FakeBackend, model
from tests.fakes.clock import FakeClock, settle

DAY = 86400.0
TINY = "registry.ollama.ai/library/tiny:latest"


class Host:
    """A prober with a local Ollama and the nodes r1 and r2."""

    def __init__(self, clock: FakeClock, store: MemoryStore) -> None:
        self.clock = clock
        self.backends: dict[str, FakeBackend] = {}
        self.woken: list[str] = []
        self.found: list[str] = []
        local = Upstream(local_node("me", "http://127.0.0.1:11436", None))
        self.r1 = Upstream(Node("r1", "http", "10.0.0.1", 11434))
        self.r2 = Upstream(Node("r2", "http", "10.0.0.2", 11434))
        fleet = Fleet(Mode.DISTRIBUTED, "setting", local, (self.r1, self.r2))
        self.fleets = Fleets(fleet)
        around = Around(
            clock=clock,
            rules=Rules(),
            backend=self.backend,
            lookup=self.lookup,
            dice=lambda: 0.5,
            ourselves=lambda sidecar: sidecar.boot == "our boot",
            found=self.found.append,
        )
        sightings = Sightings(store, DAY)
        self.prober = Prober(self.fleets, around, sightings, lambda: self.woken.append("woken"))

    def backend(self, upstream: Upstream) -> FakeBackend:
        return self.backends.setdefault(upstream.node.id, FakeBackend())

    async def lookup(self, host: str) -> tuple[str, ...]:
        return ()

    def become(self, **fields: object) -> None:
        self.fleets.replace(replace(self.fleets.current, **fields))  # type: ignore[arg-type]

    def forget(self) -> None:
        for backend in self.backends.values():
            backend.asked.clear()

    def asked(self) -> list[str]:
        return sorted(node for node, backend in self.backends.items() if backend.asked)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock)


@pytest.fixture
async def host(clock: FakeClock, store: MemoryStore) -> AsyncIterator[Host]:
    made = Host(clock, store)
    yield made
    await made.prober.stop()


async def test_all_nodes_are_up_soon_after_the_start(host: Host) -> None:
    await host.prober.start()

    await host.clock.run(1.0)

    states = [one.state for one in host.fleets.current.upstreams]
    assert states == [NodeState.UP] * 3


async def test_first_round_is_over_when_the_local_ollama_was_asked(host: Host) -> None:
    backend = host.backends.setdefault("me", FakeBackend())
    backend.says = ConnectFailed("refused")
    backend.free.clear()
    await host.prober.start()
    await host.clock.run(1.0)
    early = host.prober.first_round.is_set()

    backend.free.set()
    await settle()

    assert not early
    assert host.prober.first_round.is_set()


@pytest.mark.parametrize(
    "mode, reason, asked",
    [
        (Mode.DISTRIBUTED, "setting", ["me", "r1", "r2"]),
        (Mode.STANDALONE, "no-node-answers", ["me", "r1", "r2"]),
        (Mode.STANDALONE, "setting", ["me"]),
        (Mode.STANDALONE, "admin", ["me"]),
        (Mode.LOCAL, "setting", ["me"]),
    ],
)
async def test_other_nodes_are_asked_only_while_they_are_wanted(
    host: Host, mode: Mode, reason: str, asked: list[str]
) -> None:
    await host.prober.start()
    await host.clock.run(3.0)

    host.become(mode=mode, reason=reason)
    await settle()
    host.forget()
    await host.clock.run(30.0)

    assert host.asked() == asked


async def test_nodes_that_are_wanted_again_are_asked_at_once(host: Host) -> None:
    host.become(mode=Mode.STANDALONE, reason="admin")
    await host.prober.start()
    await host.clock.run(30.0)

    host.become(mode=Mode.DISTRIBUTED, reason="admin")
    await host.clock.run(1.0)

    assert host.r1.state is NodeState.UP


async def test_node_that_left_is_let_go(host: Host) -> None:
    await host.prober.start()
    await host.clock.run(3.0)

    host.become(others=(host.r2,))
    await settle()
    host.forget()
    await host.clock.run(30.0)

    assert host.backends["r1"].closed
    assert host.asked() == ["me", "r2"]


async def test_node_that_is_declared_anew_is_watched_anew(host: Host) -> None:
    await host.prober.start()
    await host.clock.run(3.0)
    again = Upstream(replace(host.r1.node, host="10.0.0.9"))

    host.become(others=(again, host.r2))
    await host.clock.run(1.0)

    assert again.state is NodeState.UP
    assert again.addresses == ("10.0.0.9",)


async def test_refresh_asks_the_node_now_and_reads_its_lists_where_they_may_differ(
    host: Host,
) -> None:
    await host.prober.start()
    await host.clock.run(3.0)
    host.forget()

    host.prober.refresh("r1")
    await settle()
    assert host.backends["r1"].asked == ["probe"]
    host.prober.refresh("r2", models=True)
    await settle()
    assert sorted(host.backends["r2"].asked) == ["loaded", "models", "probe"]


async def test_nodes_that_sleep_are_asked_at_once_when_there_is_reason(host: Host) -> None:
    await host.prober.start()
    host.backends["r1"].says = host.backends["r2"].says = ConnectFailed("no route")
    await host.clock.run(700.0)
    for backend in host.backends.values():
        backend.says = Probe(ADDRESS)
    host.forget()
    await host.clock.run(2.5)
    before = host.asked()

    host.prober.hasten()
    await settle()

    assert "r1" not in before
    assert [host.backends[node].asked[:1] for node in ("r1", "r2")] == [["ping"]] * 2


async def test_suspected_node_is_in_doubt_until_its_probe_is_good(host: Host) -> None:
    await host.prober.start()
    await host.clock.run(3.0)
    host.backends["r1"].free.clear()

    host.prober.suspect("r1")
    doubted = host.r1.state
    host.backends["r1"].free.set()
    await settle()

    assert doubted is NodeState.SUSPECT
    assert host.r1.state is NodeState.UP


async def test_probe_comes_back_with_the_answer(host: Host) -> None:
    await host.prober.start()
    await host.clock.run(3.0)
    host.backends["r1"].says = ConnectFailed("refused")

    probing = tasks.start(host.prober.probe("r1"), "probe")
    await settle()

    assert probing.done()
    assert host.r1.state is NodeState.SUSPECT


async def test_questions_about_unknown_nodes_are_nothing(host: Host) -> None:
    await host.prober.start()

    host.prober.refresh("nobody", models=True)
    host.prober.suspect("nobody")
    await host.prober.probe("nobody")

    assert host.prober.flags("nobody") == frozenset()


async def test_entry_that_leads_to_ourselves_is_reported(host: Host) -> None:
    host.backends["r1"] = FakeBackend()
    host.backends["r1"].ping = Probe(ADDRESS, sidecar=Sidecar("other", "our boot"))
    await host.prober.start()

    await host.clock.run(5.0)

    assert host.found == ["r1"]


async def test_flags_of_a_node_can_be_read(host: Host) -> None:
    host.backends["r1"] = FakeBackend()
    host.backends["r1"].ping = Probe(ADDRESS, sidecar=Sidecar("tower"), wall=0.0)
    await host.prober.start()

    await settle()

    assert host.prober.flags("r1") == {Flag.CLOCK_SKEW}
    assert host.prober.flags("r2") == frozenset()


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_clock_that_jumps_puts_other_nodes_in_doubt_and_asks_all(
    host: Host, jump: float
) -> None:
    await host.prober.start()
    await host.clock.run(2.9)
    for backend in host.backends.values():
        backend.free.clear()
    host.forget()

    host.clock.jump(jump)
    await host.clock.run(1.05)

    assert host.woken == ["woken"]
    assert host.r1.state is host.r2.state is NodeState.SUSPECT
    assert host.fleets.current.local.state is NodeState.UP
    assert host.asked() == ["me", "r1", "r2"]


async def test_clock_that_is_slewed_changes_nothing(host: Host) -> None:
    await host.prober.start()

    for _ in range(60):
        host.clock.jump(0.5)
        await host.clock.run(1.0)

    assert host.woken == []
    assert host.r1.state is NodeState.UP


async def test_what_a_node_had_is_known_after_a_restart_while_it_is_away(
    clock: FakeClock, store: MemoryStore
) -> None:
    first = Host(clock, store)
    first.backend(first.r1).has = (model("tiny"),)
    await first.prober.start()
    await clock.run(30.0)
    answered = first.r1.health.last_seen_wall
    await first.prober.stop()
    clock.advance(3600.0)

    second = Host(clock, store)
    second.backend(second.r1).says = ConnectFailed("refused")
    await second.prober.start()
    had, last = second.r1.inventory.had(TINY), second.r1.health.last_seen_wall
    await clock.run(10.0)

    assert had
    assert last == answered is not None
    assert second.r1.state is NodeState.DOWN
    assert second.r1.inventory.had(TINY)
    assert not second.r2.inventory.had(TINY)
    await second.prober.stop()


async def test_what_a_node_had_is_forgotten_after_a_day(
    clock: FakeClock, store: MemoryStore
) -> None:
    first = Host(clock, store)
    first.backend(first.r1).has = (model("tiny"),)
    await first.prober.start()
    await clock.run(3.0)
    await first.prober.stop()
    clock.advance(DAY + 10.0)

    second = Host(clock, store)
    await second.prober.start()

    assert not second.r1.inventory.had(TINY)
    await second.prober.stop()


async def test_stopped_prober_leaves_nothing_behind(clock: FakeClock, store: MemoryStore) -> None:
    before = tasks.running()
    host = Host(clock, store)
    await host.prober.start()
    await clock.run(3.0)

    await host.prober.stop()
    await settle()

    assert tasks.running() == before
    assert all(backend.closed for backend in host.backends.values())


# ---------------------------------------------------------------- other settings


async def test_watches_go_by_other_rules_and_keep_what_they_know(host: Host) -> None:
    await host.prober.start()
    await host.clock.run(10.0)
    watch = host.prober._watches["r1"]
    since = host.r1.health.since
    rules = Rules(interval=50.0, jitter=0.0, timeout=0.2, lists_plain=500.0)
    for upstream in host.fleets.current.upstreams:
        upstream.obey(rules, Circuit())
    host.prober.obey(rules)
    await host.clock.run(12.0)
    host.forget()

    await host.clock.run(30.0)
    quiet = [what for what in host.backends["r1"].asked if what == "probe"]
    await host.clock.run(60.0)

    assert quiet == []
    assert "probe" in host.backends["r1"].asked
    assert host.prober._watches["r1"] is watch
    assert host.r1.health.since == since


async def test_node_that_left_is_watched_while_a_call_of_ours_is_there(host: Host) -> None:
    await host.prober.start()
    await host.clock.run(1.0)
    host.r2.take(None)
    host.become(others=(host.r1,))
    host.forget()

    await host.clock.run(5.0)
    during = host.asked()
    host.r2.give(None, host.clock.monotonic(), None)
    await settle()
    host.forget()
    await host.clock.run(5.0)

    assert during == ["me", "r1", "r2"]
    assert host.asked() == ["me", "r1"]


async def test_node_that_comes_back_while_a_call_is_there_keeps_its_watch(host: Host) -> None:
    await host.prober.start()
    await host.clock.run(1.0)
    watch = host.prober._watches["r2"]
    host.r2.take(None)
    host.become(others=(host.r1,))

    host.become(others=(host.r1, host.r2))
    host.r2.give(None, host.clock.monotonic(), None)

    assert host.prober._watches["r2"] is watch
    assert not host.prober._parting
