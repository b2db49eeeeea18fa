"""Upstream: a node as this process sees it now, with its counters.

One per node id, kept while the Fleet around it is replaced. Owns what calls and
probes taught us of the node; three questions are answered here: is it available,
is it busy for a model, is the model cooling there. It must not know other nodes,
nor how anybody talks to this one. Nothing here awaits, so no counter is read in
one state and written in another.
"""

import fnmatch
import math
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from random import Random

from msgspec import structs

from ollama_wrap.config.groups import Circuit as CircuitRules
from ollama_wrap.config.groups import Health as HealthRules
from ollama_wrap.nodes.circuit import DICE, Circuit, Cooldowns, Options
from ollama_wrap.nodes.health import Health, NodeState
from ollama_wrap.nodes.inventory import Inventory
from ollama_wrap.nodes.names import short
from ollama_wrap.nodes.node import Node, NodeKind
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.signal import Signal
from ollama_wrap.nodes.verdict import Blame, Verdict

#: a node that said it is busy is left alone this long, then up to `_SATURATED_MOST`
_SATURATED = 1.0
_SATURATED_MOST = 5.0
#: the smoothed service time forgets with this time constant, in seconds
_DECAY = 10.0
#: what a node is thought to need for a call until it has answered one, in seconds
_UNKNOWN_SERVICE = 1.0
#: our own Ollama is one hop nearer
_NEAR = 0.8
#: seconds in which good answers are counted before the circuit is told
_TOGETHER = 1.0
#: seconds in which one service time stands for all
_MEASURED = 0.001
#: so many calls in a row that failed within so many seconds say that others would fail too
_FAILING, _LATELY = 2, 5.0
#: more slots than this are not learned from what was seen
_LEARNED_MOST = 256
_DOUBTED = frozenset({NodeState.SUSPECT, NodeState.JOINING})
#: states in which it is not asked, as words of X-Ollama-Fallback-Reason
_STANDING = {
    NodeState.DOWN: "node-down",
    NodeState.INCOMPATIBLE: "node-down",
    NodeState.DRAINING: "drained",
}


@dataclass(slots=True)
class _Load:
    """Calls in flight, in all and for each model."""

    total: int = 0
    by_key: dict[str | None, int] = field(default_factory=dict)


class Upstream:
    """A node with its load, slots, health, circuit, models and addresses.

    `changed` fires when its state, circuit, models or sidecar's word change;
    `freed` when a call has ended there. `latency`: smoothed service time in s.
    `state` is its health and what its sidecar says of itself; `doubted`: it is
    asked last; `routable`: of a kind and a version that calls may go to.
    """

    def __init__(
        self,
        node: Node,
        *,
        health: HealthRules | None = None,
        circuit: CircuitRules | None = None,
        dice: Random = DICE,
    ) -> None:
        self.node = node
        self.addresses: tuple[str, ...] = ()
        self.circuit = Circuit() if circuit is None else Circuit(rules=circuit)
        self.changed = Signal()
        self.freed = Signal()
        self.queued = 0
        self.latency: float | None = None
        #: monotonic time of the last failure that counted, for the last resort's order
        self.failed_at = -math.inf
        #: calls in a row that failed there, and when the last of them did
        self._failures, self._failing = 0, -math.inf
        #: operations whose route this node's version does not know
        self.lacking: set[str] = set()
        #: its lists hang, and so would a load
        self.slow_disk = False
        self._health = Health() if health is None else Health(rules=health)
        self._inventory = Inventory()
        self._sidecar: Sidecar | None = None
        self._load = _Load()
        #: calls of others at its sidecar when it was last asked
        self._foreign = 0
        self._saturated_until = -math.inf
        self._learned: dict[str | None, int] = {}
        self._cooldowns = Cooldowns(circuit)
        self._measured_at = -math.inf
        #: good answers that its circuit has not been told of, and since when
        self._good, self._good_since = 0, -math.inf
        self._dice = dice
        self.declare(node)
        self._settle()

    def __repr__(self) -> str:
        return f"<Upstream {self.node.id} {self.state} {self.in_flight} in flight>"

    # ---------------------------------------------------------------- what was declared

    def declare(self, node: Node) -> None:
        """It is declared anew; what was learned of it stays."""
        self._handicap = (_NEAR if node.local else 1.0) * 100.0 / node.weight
        patterns = "|".join(fnmatch.translate(pattern) for pattern in node.patterns)
        self._patterns = re.compile(patterns) if patterns else None
        # The same declaration stays the same object: connections are kept by it.
        if node != self.node:
            self.node = node

    def obey(self, health: HealthRules, circuit: CircuitRules) -> None:
        """Go by other rules from now on; what is open or counted now stays so."""
        self._health = replace(self._health, rules=health)
        self.circuit = structs.replace(self.circuit, rules=circuit)
        self._cooldowns.obey(circuit)

    # ---------------------------------------------------------------- what was learned

    @property
    def health(self) -> Health:
        return self._health

    @health.setter
    def health(self, health: Health) -> None:
        before, self._health = self.state, health
        self._settle()
        if self.state is not before:
            self.changed.fire()

    @property
    def inventory(self) -> Inventory:
        return self._inventory

    @inventory.setter
    def inventory(self, inventory: Inventory) -> None:
        before, self._inventory = self._inventory, inventory
        # Another version may know routes that the last one did not.
        if inventory.version != before.version:
            self.lacking.clear()
        if _differ(before, inventory):
            self.changed.fire()

    @property
    def sidecar(self) -> Sidecar | None:
        return self._sidecar

    @sidecar.setter
    def sidecar(self, sidecar: Sidecar | None) -> None:
        before, self._sidecar = self._sidecar, sidecar
        # What it says has our own calls in it, as far as they have arrived.
        self._foreign = max(0, sidecar.in_flight - self.in_flight) if sidecar else 0
        self._settle()
        if sidecar != before:
            self.changed.fire()

    # ---------------------------------------------------------------- may it be asked?

    def state_word(self, now: float) -> str:
        """The state as people read it."""
        return self.state.value

    def obstacle(self, now: float) -> str | None:
        """Why it may not be asked, as a word of X-Ollama-Fallback-Reason; None: it may."""
        retry_at = self.circuit.retry_at
        if retry_at is None or self._standing is not None:
            return self._standing
        # A trial is for a node whose last probe was good.
        good = not self._health.fails and self.state is not NodeState.SUSPECT
        return None if good and self.circuit.allows(now) else "circuit-open"

    def available(self, now: float) -> bool:
        """Neither down, drained nor incompatible, and its circuit lets a call through."""
        return self.obstacle(now) is None

    def sound(self, now: float) -> bool:
        """Whether calls are not failing there: no two in a row did, or that is a while ago."""
        return self._failures < _FAILING or now - self._failing > _LATELY

    def cooling(self, key: str | None, now: float, options: Options | None = None) -> bool:
        """Whether the model failed here lately, loaded with these options or with any."""
        cooldowns = self._cooldowns
        return bool(cooldowns.by_key) and cooldowns.cooling(key, now, options)

    def speaks(self, dialect: str) -> bool:
        """Whether it answers in this dialect without a translation."""
        return self.node.kind is NodeKind.OLLAMA or dialect == "openai"

    def accepts(self, key: str) -> bool:
        """Whether its `models=` patterns let this model through."""
        if self._patterns is None:
            return True
        name = short(key)
        # People write patterns for the names they see.
        spellings = (name, name.removesuffix(":latest"), key)
        return any(self._patterns.match(spelling) for spelling in spellings)

    # ---------------------------------------------------------------- how much has it to do?

    @property
    def in_flight(self) -> int:
        """Calls of ours that are there now."""
        return self._load.total

    @property
    def load(self) -> int:
        """Calls there, as far as we know: ours, and those of others at its sidecar."""
        theirs = 0 if self._sidecar is None else self._foreign + self._sidecar.queued
        return self._load.total + self.queued + theirs

    def running(self, key: str | None) -> int:
        """Calls of ours in flight there for this model."""
        return self._load.by_key.get(key, 0)

    def loading_other(self, key: str | None) -> bool:
        """Whether a call of ours waits there for another model to be loaded."""
        return bool(self._load.by_key) and any(
            other is not None and other != key and not self._inventory.has_loaded(other)
            for other in self._load.by_key
        )

    def slots(self, key: str | None) -> tuple[int, bool]:
        """What it runs at once for this model; True: declared or reported, not learned."""
        if self.node.slots is not None:
            return self.node.slots, True
        sidecar = self._sidecar
        if sidecar is not None and sidecar.slots is not None:
            return max(1, sidecar.slots), True
        return self._learned.get(key, 1), False

    def learned(self, key: str | None, slots: int) -> None:
        """It was seen to answer so many calls for this model with interleaved bytes."""
        if slots > self._learned.get(key, 1):
            self._learned[key] = min(slots, _LEARNED_MOST)
            self.freed.fire()

    def busy(self, key: str | None, now: float) -> bool:
        """At its slots, or it said so itself a moment ago."""
        if now < self._saturated_until or self._load.by_key.get(key, 0) >= self.slots(key)[0]:
            return True
        sidecar = self._sidecar
        if sidecar is None:
            return False
        room = (sidecar.slots or 1) * max(1, len(sidecar.loaded))
        return (
            sidecar.saturated or sidecar.queued > 0 or 0 < self._foreign >= room - self._load.total
        )

    def score(self) -> float:
        """Expected wait in seconds, weighed; less is better."""
        service = _UNKNOWN_SERVICE if self.latency is None else self.latency
        return (self.load + 1) * service * self._handicap

    # ---------------------------------------------------------------- a call comes and goes

    def take(self, key: str | None) -> None:
        """A call for this model goes there."""
        load = self._load
        load.total += 1
        load.by_key[key] = load.by_key.get(key, 0) + 1
        if self.circuit.retry_at is not None:
            self.circuit = self.circuit.tried()

    def give(self, key: str | None, now: float, service: float | None) -> None:
        """It has ended, after `service` seconds where that says how fast the node is."""
        load = self._load
        # Given back twice counts once.
        count = load.by_key.get(key, 0)
        if not count:
            return
        load.total -= 1
        if count == 1:
            del load.by_key[key]
        else:
            load.by_key[key] = count - 1
        if not load.total and self.circuit.trying:
            self.circuit = self.circuit.released()
        if service is not None and now - self._measured_at >= _MEASURED:
            self._measure(service, now)
        self.freed.fire()

    def saturated(self, now: float) -> None:
        """It answered that it is busy."""
        self._saturated_until = now + self._dice.uniform(_SATURATED, _SATURATED_MOST)

    def served(self, now: float) -> bool:
        """Count a good answer where it changes nothing but a count; False: it is to be recorded.

        The circuit is told of many together.
        """
        circuit = self.circuit
        if self._failures or circuit.retry_at is not None or self._cooldowns.by_key:
            return False
        if now - self._good_since > _TOGETHER:
            self._tell()
            self._good_since = now
        self._good += 1
        return True

    def record(
        self,
        verdict: Verdict,
        key: str | None,
        now: float,
        wall: float,
        options: Options = str,
    ) -> None:
        """What an attempt said of the node, and of the model there."""
        self._tell()
        before = self.circuit
        if verdict.suspect or verdict.blame is not Blame.NONE:
            self._failures, self._failing = self._failures + 1, now
        elif verdict.success:
            self._failures = 0
        if verdict.blame is Blame.NODE:
            self.circuit = before.failed(now, self._dice)
            self.failed_at = now
        elif verdict.success or verdict.blame is not Blame.NONE:
            # A model's failure was a well-formed answer of the node.
            self.circuit = before.succeeded(now)
        else:
            self.circuit = before.released()
        self._record_model(verdict, key, now, options)
        # It opened or closed: others are to know, and a node that is back begins slowly.
        if (before.retry_at is None) != (self.circuit.retry_at is None):
            if self.circuit.retry_at is None:
                self._health = self._health.warmed_again(now, wall)
                self._settle()
            self.changed.fire()
        if verdict.suspect:
            self.health = self._health.traffic_failed(now, wall)

    def _tell(self) -> None:
        if self._good:
            self.circuit = self.circuit.succeeded(self._good_since, self._good)
            self._good = 0

    def forgive(self, gone: Collection[str]) -> None:
        """These models left its memory: others, which may have failed for want of it, may try.

        One that crashes leaves memory too, and that is no reason to try it again.
        """
        if self._cooldowns.forgive(gone):
            self.changed.fire()

    def _settle(self) -> None:
        """Work out, once for many rankings, what health and sidecar say together."""
        state, sidecar = self._health.state, self._sidecar
        if sidecar is not None and state is not NodeState.DOWN:
            if not sidecar.compatible:
                state = NodeState.INCOMPATIBLE
            # Its sidecar answers and its Ollama does not.
            elif not sidecar.ollama:
                state = NodeState.DOWN
            elif sidecar.drain:
                state = NodeState.DRAINING
        self.state = state
        self.doubted = state in _DOUBTED
        self.routable = self.node.kind is NodeKind.OLLAMA and state is not NodeState.INCOMPATIBLE
        self._standing = _STANDING.get(state)
        if state is NodeState.DOWN and self.node.local:
            self._standing = "local-unhealthy"

    def _record_model(
        self, verdict: Verdict, key: str | None, now: float, options: Options
    ) -> None:
        if verdict.success:
            self._cooldowns.succeeded(key, options)
        elif verdict.blame in {Blame.MODEL, Blame.MODEL_DOUBLE}:
            weight = 2 if verdict.blame is Blame.MODEL_DOUBLE else 1
            self._cooldowns.failed(key, options(), now, weight, self._dice)
            self.failed_at = now

    def _measure(self, service: float, now: float) -> None:
        if self.latency is None:
            self.latency = service
        else:
            fresh = 1.0 - math.exp(-max(0.0, now - self._measured_at) / _DECAY)
            self.latency += fresh * (service - self.latency)
        self._measured_at = now


def _differ(one: Inventory, other: Inventory) -> bool:
    """Whether a ranking could come out otherwise; when a model was last seen is not it."""
    said = (one.known, one.version, one.loaded.keys(), one.models)
    return said != (other.known, other.version, other.loaded.keys(), other.models)
