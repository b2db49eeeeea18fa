"""Fleet: the mode and the upstreams in order, as one snapshot; Fleets: who holds the present one.

A Fleet is replaced whole when nodes or the mode change; its Upstreams live on by
node id. Owns the order and the limit on how many nodes may be left out at a time.
It must not know why anything changes, nor who is asked first.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from ollama_wrap.call import Mode
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.signal import Signal
from ollama_wrap.nodes.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Fleet:
    """One snapshot; `reason` says why the mode is what it is, `others` are in declared order."""

    mode: Mode
    reason: str
    local: Upstream
    others: tuple[Upstream, ...] = ()
    #: all of them, the local one first
    upstreams: tuple[Upstream, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "upstreams", (self.local, *self.others))

    def holders(self, key: str) -> tuple[Upstream, ...]:
        """Who has the model, whatever their state; the local one first."""
        return tuple(one for one in self.upstreams if one.inventory.had(key))

    def find(self, name: str) -> Upstream | None:
        """The upstream of this id, `local`, or the second name that its sidecar gave it."""
        if name == "local":
            return self.local
        for upstream in self.upstreams:
            if upstream.node.id == name:
                return upstream
        for upstream in self.others:
            if upstream.sidecar is not None and upstream.sidecar.id == name:
                return upstream
        return None

    def answering(self) -> bool:
        """Whether another node is thought to answer; one that was never asked is."""
        return any(one.health.probed is not NodeState.DOWN for one in self.others)

    def spared(self, now: float) -> Collection[Upstream]:
        """Other nodes that may be asked although their circuits are open.

        At most half of the others, and at least one, may be left out at a time:
        those whose circuits opened first. Those of which nothing is known yet do not
        count as others.
        """
        known = sum(one.state is not NodeState.JOINING for one in self.others)
        ejected = [one for one in self.others if one.obstacle(now) == "circuit-open"]
        ejected.sort(key=lambda one: one.circuit.opened)
        return ejected[max(1, known // 2) :]


class Fleets:
    """Holds the present Fleet.

    `current` is written here alone; it is asked for too often to be a property.
    `changed` fires when it is replaced and with `changed` of any of its upstreams;
    `freed` with `freed` of any of them. `leaving` are those that are in it no more
    while calls of ours are there; `changed` fires with theirs too, and when one has left.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.changed = Signal()
        self.freed = Signal()
        self.leaving: tuple[Upstream, ...] = ()
        self.current = fleet
        self._follow(fleet)

    def replace(self, fleet: Fleet) -> None:
        """From now on it is this one."""
        before = (*self.current.upstreams, *self.leaving)
        for upstream in before:
            upstream.changed.unsubscribe(self.changed.fire)
            upstream.freed.unsubscribe(self.freed.fire)
            upstream.freed.unsubscribe(self._part)
        self.current = fleet
        self._follow(fleet)
        self.leaving = tuple(one for one in before if one.in_flight and one not in fleet.upstreams)
        for upstream in self.leaving:
            upstream.changed.subscribe(self.changed.fire)
            upstream.freed.subscribe(self._part)
        self.changed.fire()

    def _part(self) -> None:
        """The last call of ours may have ended at one that leaves."""
        for upstream in self.leaving:
            if not upstream.in_flight:
                upstream.changed.unsubscribe(self.changed.fire)
                upstream.freed.unsubscribe(self._part)
        left = tuple(one for one in self.leaving if one.in_flight)
        if left != self.leaving:
            self.leaving = left
            self.changed.fire()

    def _follow(self, fleet: Fleet) -> None:
        for upstream in fleet.upstreams:
            upstream.changed.subscribe(self.changed.fire)
            upstream.freed.subscribe(self.freed.fire)
