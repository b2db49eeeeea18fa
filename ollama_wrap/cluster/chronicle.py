"""Chronicle: notices what has changed of mode and nodes, writes it down, and tells it.

Compares what is with what was when it looked last; a change that is undone before it
looks was none. It must not know why anything changed, nor who listens.
"""

import re
from collections.abc import Mapping

from ollama_wrap.call import Mode
from ollama_wrap.clock import Clock
from ollama_wrap.cluster.events import (
    CircuitChanged,
    Events,
    ModeChanged,
    ModelsChanged,
    NodeChanged,
)
from ollama_wrap.nodes.circuit import CircuitState
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.inventory import Model
from ollama_wrap.nodes.node import NodeKind
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.observe import log

#: states that pass: a node is in doubt after each failure, and mostly for no long time
_PASSING = frozenset({NodeState.SUSPECT, NodeState.JOINING})
_BEFORE_UP = _PASSING | {NodeState.WARMING}

#: the first Ollama that cannot be read from by a made-up model (CVE-2026-7482)
_SOUND = (0, 17, 1)
_numbers = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})")

_Seen = tuple[NodeState, CircuitState, Mapping[str, Model]]


class Chronicle:
    """Looks whenever the fleet has changed, from `start` to `stop`."""

    def __init__(self, fleets: Fleets, events: Events, clock: Clock) -> None:
        self._fleets = fleets
        self._events = events
        self._clock = clock
        self._mode: tuple[Mode, str] | None = None
        self._seen: dict[str, _Seen] = {}
        self._namesakes: set[str] = set()
        self._versions: dict[str, str | None] = {}

    def start(self) -> None:
        """What holds now is where it begins."""
        self._fleets.changed.subscribe(self._look)
        self._look()

    def stop(self) -> None:
        """Look no more."""
        self._fleets.changed.unsubscribe(self._look)

    def _look(self) -> None:
        fleet = self._fleets.current
        self._look_at_mode(fleet)
        # One that left and comes back is a new one.
        if len(self._seen) > len(fleet.upstreams):
            present = {one.node.id for one in fleet.upstreams}
            self._seen = {node: seen for node, seen in self._seen.items() if node in present}
            self._namesakes &= present
            self._versions = {node: one for node, one in self._versions.items() if node in present}
        for upstream in fleet.upstreams:
            self._look_at(upstream)
            if upstream.sidecar is not None and upstream.sidecar.id == fleet.local.node.id:
                self._warn_of_namesake(upstream)
            if upstream.inventory.version is not self._versions.get(upstream.node.id):
                self._look_at_version(upstream)

    def _look_at_mode(self, fleet: Fleet) -> None:
        before, self._mode = self._mode, (fleet.mode, fleet.reason)
        if before is None or before == self._mode:
            return
        self._events.tell(ModeChanged(fleet.mode, before[0], fleet.reason))
        log.get(__name__).info(
            "mode changed", mode=fleet.mode.value, previous=before[0].value, reason=fleet.reason
        )

    def _look_at(self, upstream: Upstream) -> None:
        node = upstream.node.id
        circuit = upstream.circuit.state(self._clock.monotonic())
        models = upstream.inventory.models
        before = self._seen.get(node)
        self._seen[node] = (upstream.state, circuit, models)
        if before is None:
            return
        if before[0] is not upstream.state:
            self._moved(upstream, before[0])
        if before[1] is not circuit:
            self._events.tell(CircuitChanged(node, circuit))
            log.get(__name__).info("circuit changed", node=node, circuit=circuit.value)
        if before[2] is not models and before[2] != models:
            self._events.tell(ModelsChanged(node))

    def _warn_of_namesake(self, upstream: Upstream) -> None:
        node = upstream.node.id
        if node not in self._namesakes:
            self._namesakes.add(node)
            log.get(__name__).warning(
                "the sidecar of this node has our own id; give one of the two another NODE_ID",
                node=node,
                id=self._fleets.current.local.node.id,
            )

    def _look_at_version(self, upstream: Upstream) -> None:
        node, version = upstream.node.id, upstream.inventory.version
        before, self._versions[node] = self._versions.get(node), version
        ours = upstream.node.kind is NodeKind.OLLAMA
        if ours and version != before and old(version or ""):
            log.get(__name__).warning(
                "this Ollama can be made to give away its memory by who may create models there: "
                "bring it up to date, or protect it (docs/hardening.md)",
                node=node,
                version=version,
            )

    def _moved(self, upstream: Upstream, previous: NodeState) -> None:
        node, state, error = upstream.node.id, upstream.state, upstream.health.error
        self._events.tell(NodeChanged(node, state, previous, error))
        said = log.get(__name__)
        say = said.warning if state is NodeState.DOWN else said.info
        if state in _PASSING or (state is NodeState.UP and previous in _BEFORE_UP):
            say = said.debug
        say("node changed", node=node, state=state.value, previous=previous.value, error=error)


def old(version: str) -> bool:
    """Whether this is an Ollama that is known to be unsafe; 0.0.0 is somebody's own build."""
    found = _numbers.match(version)
    numbers = tuple(map(int, found.groups())) if found else _SOUND
    return (0, 0, 0) < numbers < _SOUND
