import asyncio
import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from ollama_wrap.call import Mode
from ollama_wrap.cluster.chronicle import Chronicle, old
from ollama_wrap.cluster.events import (
    CircuitChanged,
    Event,
    Events,
    ModeChanged,
    ModelsChanged,
    NodeChanged,
)
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.observe import log
from ollama_wrap.state.memory import MemoryBus
from tests.fakes.clock import FakeClock
from tests.fakes.nodes import eject, fleet, health, listed, upstream

LIFE = (
    *(NodeState.SUSPECT, NodeState.UP, NodeState.SUSPECT, NodeState.DOWN),
    *(NodeState.WARMING, NodeState.UP),
)


class Watched(Events):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__(MemoryBus(), "tower", FakeClock())
        self.told: list[Event] = []

    def tell(self, event: Event) -> None:
        self.told.append(event)


class Stage:
    def __init__(self) -> None:
        self.here, self.r1 = upstream("local"), upstream("r1=h1")
        self.fleets, self.events = Fleets(fleet(self.here, self.r1)), Watched()
        self.chronicle = Chronicle(self.fleets, self.events, FakeClock())
        self.chronicle.start()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def goes_down(node: Upstream) -> None:
    node.health = health(NodeState.DOWN)


def changes_its_models(node: Upstream) -> None:
    node.inventory = listed(("m", "other"))


def fails_three_times(node: Upstream) -> None:
    eject(node, FakeClock().monotonic())


@pytest.mark.parametrize(
    "does,event",
    [
        (goes_down, NodeChanged("r1", "down", "up")),
        (changes_its_models, ModelsChanged("r1")),
        (fails_three_times, CircuitChanged("r1", "open")),
    ],
)
def test_what_changes_at_a_node_is_told_once(
    stage: Stage, does: Callable[[Upstream], None], event: Event
) -> None:
    does(stage.r1)
    stage.fleets.changed.fire()

    assert stage.events.told == [event]


def test_mode_that_changes_is_told_with_its_reason(stage: Stage) -> None:
    stage.fleets.replace(Fleet(Mode.STANDALONE, "no-node-answers", stage.here, (stage.r1,)))

    assert stage.events.told == [ModeChanged("standalone", "distributed", "no-node-answers")]


def test_nothing_is_told_of_lists_that_say_the_same(stage: Stage) -> None:
    stage.r1.inventory = listed(("m",), loaded=("m",))

    assert stage.events.told == []


def test_nothing_is_told_after_the_end(stage: Stage) -> None:
    stage.chronicle.stop()

    goes_down(stage.r1)

    assert stage.events.told == []


async def test_operator_reads_of_what_lasts_and_not_of_each_doubt(stage: Stage) -> None:
    written = io.StringIO()
    before = log._output.level, log._output.format
    with contextlib.redirect_stderr(written):
        log.configure("info", "json")
        for state in LIFE:
            stage.r1.health = health(state)
        await asyncio.sleep(0)
        log.flush()
    log._output.level, log._output.format = before

    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    said = [(line["level"], line["node"], line["state"]) for line in lines]
    assert said == [("warning", "r1", "down"), ("info", "r1", "warming")]


# ---------------------------------------------------------------- versions


@pytest.mark.parametrize(
    "version, unsafe",
    [
        *(("0.1.29", True), ("0.17.0", True), ("0.17.0-rc1", True), ("0.17.1", False)),
        *(("0.17.1-rc0", False), ("0.24.0", False), ("1.0.0", False), ("0.0.0", False)),
        *(("", False), ("dev", False), ("0.9", False)),
    ],
)
def test_ollama_with_a_known_weakness_is_told_from_others(version: str, unsafe: bool) -> None:
    assert old(version) is unsafe


async def test_ollama_with_a_known_weakness_is_warned_of_once(stage: Stage) -> None:
    written = io.StringIO()
    before = log._output.level, log._output.format
    with contextlib.redirect_stderr(written):
        log.configure("info", "json")
        for version in ("0.12.0", "0.12.0", "0.24.0"):
            stage.r1.inventory = replace(stage.r1.inventory, version=version)
            await asyncio.sleep(0)
        log.flush()
    log._output.level, log._output.format = before

    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["level"], line["node"], line["version"]) for line in lines] == [
        ("warning", "r1", "0.12.0")
    ]
