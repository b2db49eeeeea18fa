"""How the mode follows settings, choices, nodes and faults; what surfaces are given."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from ollama_wrap import app, tasks
from ollama_wrap.call import Mode
from ollama_wrap.cluster.prober import Prober
from ollama_wrap.config import Settings
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.observe.host import REFRESH_AFTER, Host, most_files
from ollama_wrap.runtime import PEER, Runtime
from tests.fakes.clock import FakeClock
from tests.fakes.nodes import health
from tests.unit.api.sidecar import Store


@dataclass
class Hastened:
    """Stands where the prober is."""

    hasten: Callable[[], None]


def runtime(nodes: str = "r1=http://h1:11434", **settings: Any) -> Runtime:
    base = {"nodes": {"text": nodes}, "state": {"store": "memory"}, "server": {"node_id": "tower"}}
    return app.build(Settings.model_validate(base | settings), FakeClock())


async def started(made: Runtime) -> Runtime:
    """As far as the mode goes: nobody is probed."""
    await made._load()
    return made


async def test_mode_is_settled_when_it_starts() -> None:
    alone, several = await started(runtime("")), await started(runtime())

    assert alone.fleets.current.mode is Mode.LOCAL
    assert several.fleets.current.mode is Mode.DISTRIBUTED


async def test_mode_follows_the_nodes() -> None:
    made = await started(runtime())

    (node,) = made.fleets.current.others
    node.health = health(NodeState.DOWN)
    made.fleets.current.local.health = health(NodeState.UP)
    node.changed.fire()

    assert (made.fleets.current.mode, made.fleets.current.reason) == (
        Mode.STANDALONE,
        "no-node-answers",
    )


async def test_choice_is_in_force_at_once() -> None:
    made = await started(runtime())

    await made.choices.choose_mode(Mode.LOCAL)

    assert made.fleets.current.mode is Mode.LOCAL


async def test_settings_that_could_not_be_used_keep_it_local() -> None:
    made = await started(runtime("r1=ftp://h1"))

    assert made.problems
    assert made.fleets.current.mode is Mode.LOCAL


async def test_choices_that_cannot_be_read_keep_it_local() -> None:
    made = runtime()
    store = Store(FakeClock())
    store.away = True
    made.choices._store = store

    await started(made)

    assert made.problems == [str(StoreUnavailable("the disk is full"))]
    assert made.fleets.current.mode is Mode.LOCAL


async def test_fleet_is_not_replaced_where_nothing_changed() -> None:
    made = await started(runtime())
    before = made.fleets.current

    made.settle()

    assert made.fleets.current is before


def test_ping_of_another_sidecar_is_remembered_for_a_while() -> None:
    made = runtime()
    clock = made.clock
    assert isinstance(clock, FakeClock)
    assert not made.used_by_peers()

    made.parts().pinged()
    clock.advance(PEER - 1)
    assert made.used_by_peers()
    clock.advance(1)

    assert not made.used_by_peers()


def test_surfaces_are_told_what_does_not_change() -> None:
    made = runtime(server={"node_id": "tower", "listen": "127.0.0.1:11434"})

    parts = made.parts()

    about = parts.about
    assert (about.node_id, about.boot, about.store) == ("tower", made.boot, "memory")
    assert about.listen == ("127.0.0.1:11434",)
    assert (parts.ready(), parts.draining()) == (False, False)
    made.draining = True
    assert parts.draining()


async def test_nodes_that_change_after_the_end_change_no_mode() -> None:
    made = await started(runtime())
    (node,) = made.fleets.current.others

    await made._close()
    node.health = health(NodeState.DOWN)
    node.changed.fire()

    assert made.fleets.current.mode is Mode.DISTRIBUTED


def test_loops_have_names() -> None:
    assert set(runtime().loops().run) == {"events", "guard", "host", "overload"}


def test_connections_are_as_many_as_the_open_files_allow() -> None:
    made = runtime(client={"max_connections": 1_000_000})
    most = most_files()

    assert most is not None
    assert made.guard.limits.connections == max(64, (most - 256) // 2)


async def test_measures_against_overload_are_obeyed_by_every_part() -> None:
    made = runtime(memory_limit="1MiB")

    made.overload.look(0.0, 0.0)

    assert made.strain.refuse
    assert made.guard.strain is made.pipeline.budget.strain is made.strain
    assert made.parts().strain is made.strain
    assert made.strain.retry_after == 1


async def test_nodes_are_asked_at_once_when_a_network_is_back() -> None:
    made = runtime()
    clock, hastened = cast("FakeClock", made.clock), list[frozenset[str]]()
    addresses = [frozenset({"127.0.0.1"})] * 2 + [frozenset({"127.0.0.1", "10.0.0.7"})] * 2
    made.host = Host(lambda: "tower", lambda: addresses.pop(0) if addresses else frozenset())
    made.prober = cast("Prober", Hastened(lambda: hastened.append(made.host.addresses)))
    loop = tasks.start(made._refresh_host(), "host")

    await clock.run(REFRESH_AFTER * 4)
    await tasks.stop(loop)

    # Not when one went away.
    assert hastened == [frozenset({"127.0.0.1", "10.0.0.7"})]
