"""Health: what probes and real traffic say of a node.

A node is JOINING until it has answered twice, then UP. A failed call makes it
SUSPECT at once, and so does a failed probe; three failed probes in a row make it
DOWN, one good probe makes a suspect UP again. A node that comes back from DOWN is
WARMING for a while. A node whose port accepts but that has not answered since the
port opened is starting: JOINING, for two minutes at most.

Owns the states and when to probe next. It must not know how a node is probed,
nor clocks: times are given (`now` monotonic, `wall` for people).
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache

from ollama_wrap.config.groups import Health as Rules

#: share of a new measurement in the smoothed answer time of probes
_FRESH = 0.3
#: share of its weight that a node has when it comes back
_COLD = 0.1


class NodeState(StrEnum):
    """What people see of a node; its circuit stands beside it."""

    JOINING = "joining"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"
    DRAINING = "draining"
    WARMING = "warming"
    INCOMPATIBLE = "incompatible"


#: a good probe, where one is enough: state before, state after
_GOOD = {
    NodeState.UP: NodeState.UP,
    NodeState.SUSPECT: NodeState.UP,
    NodeState.WARMING: NodeState.WARMING,
}


@cache
def _rules() -> Rules:
    return Rules()


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a node's life; each transition returns the next Health.

    `probed` is what probes say, `state` adds the drain. `fails` and `oks` count
    probes in a row. `opened` is when its port began to accept, None: closed or
    never tried. `latency` is the smoothed answer time of probes in seconds.
    """

    probed: NodeState = NodeState.JOINING
    since: float = 0.0
    since_wall: float = 0.0
    fails: int = 0
    oks: int = 0
    error: str | None = None
    last_seen: float | None = None
    last_seen_wall: float | None = None
    latency: float | None = None
    #: it answered at least once since we started; `served`: it was UP at least once
    ever_answered: bool = False
    served: bool = False
    opened: float | None = None
    #: it answered since its port opened
    greeted: bool = False
    drain: bool = False
    rules: Rules = field(default_factory=_rules, repr=False)

    @property
    def state(self) -> NodeState:
        """What holds: being away beats being drained."""
        if self.drain and self.probed is not NodeState.DOWN:
            return NodeState.DRAINING
        return self.probed

    def probed_ok(self, now: float, wall: float, latency: float) -> "Health":
        """A probe was answered after `latency` seconds."""
        smooth = latency if self.latency is None else self.latency
        seen = replace(
            self,
            fails=0,
            oks=self.oks + 1,
            error=None,
            last_seen=now,
            last_seen_wall=wall,
            latency=smooth + _FRESH * (latency - smooth),
            ever_answered=True,
            opened=now if self.opened is None else self.opened,
            greeted=True,
        )
        return _moved(seen, _after_good(seen, now), now, wall)

    def probed_bad(
        self, now: float, wall: float, error: str, *, accepted: bool = False
    ) -> "Health":
        """A probe failed; `accepted`: a connection was made, only no good answer came."""
        opened = (now if self.opened is None else self.opened) if accepted else None
        failed = replace(
            self,
            fails=self.fails + 1,
            oks=0,
            error=error,
            opened=opened,
            greeted=self.greeted and accepted,
        )
        return _moved(failed, _after_bad(failed, now), now, wall)

    def traffic_failed(self, now: float, wall: float) -> "Health":
        """A call failed in a way that puts the node in doubt, or what is known is old."""
        doubted = self.probed in {NodeState.UP, NodeState.WARMING}
        return _moved(self, NodeState.SUSPECT, now, wall) if doubted else self

    def warmed_again(self, now: float, wall: float) -> "Health":
        """Its circuit closed: it starts slowly."""
        up = self.probed is NodeState.UP
        return _moved(self, NodeState.WARMING, now, wall) if up else self

    def draining(self, on: bool, now: float, wall: float) -> "Health":  # noqa: FBT001  one fact
        """An operator wants it empty, or no longer."""
        if on == self.drain:
            return self
        return replace(self, drain=on, since=now, since_wall=wall)

    def warmth(self, now: float) -> float:
        """Its share of the calls that it would get, 0.1 to 1."""
        if self.probed is not NodeState.WARMING:
            return 1.0
        span = self.rules.warming
        grown = min(1.0, max(0.0, now - self.since) / span) if span else 1.0
        return _COLD + (1.0 - _COLD) * grown

    def next_probe_in(self, now: float, spread: float) -> float:
        """Seconds until the next probe; `spread`, 0 to 1, moves it within the jitter."""
        rules = self.rules
        if self.probed is NodeState.DOWN:
            # Machines that sleep for hours are not to be woken every two seconds.
            if not self.oks and now - self.since >= rules.asleep_after:
                return rules.asleep_interval
            hurry = self.oks > 0
        else:
            hurry = self.fails > 0 or self.probed in {NodeState.JOINING, NodeState.SUSPECT}
        if hurry:
            return rules.fast_interval
        return rules.interval * (1.0 - rules.jitter + 2.0 * rules.jitter * spread)


def _after_good(health: Health, now: float) -> NodeState:
    """The state after a good probe that is already counted."""
    if health.probed is NodeState.WARMING and now - health.since >= health.rules.warming:
        return NodeState.UP
    if health.probed in _GOOD:
        return _GOOD[health.probed]
    if health.oks < health.rules.rise:
        return health.probed
    return NodeState.WARMING if health.served else NodeState.UP


def _after_bad(health: Health, now: float) -> NodeState:
    """The state after a bad probe that is already counted."""
    # Its port is open and it has said nothing yet: it may be starting.
    if health.opened is not None and not health.greeted:
        if now - health.opened < health.rules.joining:
            return NodeState.JOINING
        return NodeState.DOWN
    if health.fails >= health.rules.fall or health.probed is NodeState.DOWN:
        return NodeState.DOWN
    return NodeState.JOINING if health.probed is NodeState.JOINING else NodeState.SUSPECT


def _moved(health: Health, probed: NodeState, now: float, wall: float) -> Health:
    if probed is health.probed:
        return health
    served = health.served or probed is NodeState.UP
    return replace(health, probed=probed, served=served, since=now, since_wall=wall)
