"""Router: asks the policy for an order of those who can take a call, and says why.

In this order: force headers; who holds the model and may be asked; tiers by side
and priority; the policy within each tier; free before busy before doubted; equal
digests before others. Owns the order and its reasons. It must not talk to nodes,
wait, or read a clock: it returns a Ranking and changes nothing but a policy's turns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from msgspec import Struct
from msgspec.structs import replace

from ollama_wrap.call import Call, Mode
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.mode import ModeReason
from ollama_wrap.nodes.names import canonical, is_cloud
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.routing.narrow import Sight, away, look, pool
from ollama_wrap.routing.policies import load
from ollama_wrap.routing.policies.base import Candidate

Tier = tuple[int, int]


class Routing(StrEnum):
    """Which side a call prefers."""

    LOCAL_FIRST = "local-first"
    BALANCED = "balanced"
    REMOTE_FIRST = "remote-first"


class Digests(StrEnum):
    """What another digest under the same name means."""

    PREFER = "prefer"
    REQUIRE = "require"
    IGNORE = "ignore"


#: X-Ollama-Route is a preference for one call: it takes the place of the setting
_SIDES = {"local": Routing.LOCAL_FIRST, "remote": Routing.REMOTE_FIRST}
#: reasons that say more than "another digest" would
STRONG = frozenset({"forced", "last-gasp"})


class Ranking(Struct, frozen=True):
    """Candidates, best first; none: nobody may be asked.

    `key`: the canonical model name. `passed_over`: why the preferred side was
    passed over, a word of X-Ollama-Fallback-Reason. `away`: (node id, wall time of
    its last answer) of nodes known to hold the model that do not answer.
    `holdable`: the call may wait here while all candidates are busy. `known`:
    somebody is known to hold the model. `leads`: the first stays first for calls
    like this one while it is free, until more than somebody's load changes.
    """

    candidates: tuple[Candidate, ...]
    key: str | None = None
    passed_over: str | None = None
    away: tuple[tuple[str, float], ...] = ()
    holdable: bool = False
    known: bool = True
    leads: bool = False


@dataclass(slots=True)
class _Case:
    """One question to the router, with what was found out on the way."""

    call: Call
    fleet: Fleet
    sight: Sight
    mode: Routing
    key: str
    now: float
    #: who has the model: the local Ollama; another node
    here: bool = False
    elsewhere: bool = False

    def __post_init__(self) -> None:
        live, blocked, local = self.sight.live, self.sight.blocked, self.fleet.local
        # The local one is looked at first.
        self.here = (bool(live) and live[0] is local) or local in blocked
        self.elsewhere = len(live) + len(blocked) > self.here


class Router:
    """Ranks upstreams for a call; `policy` is a name of `POLICIES` or `module:Class`."""

    def __init__(self, mode: str, policy: str, digests: str, dice: Random) -> None:
        self._mode = Routing(mode)
        self._policy = load(policy, dice)
        self._digests = Digests(digests)
        self._dice = dice

    def rank(self, call: Call, fleet: Fleet, now: float) -> Ranking:
        """Who should take this call at `now` (monotonic), best first."""
        model, local = call.model, fleet.local
        key = canonical(model) if model else None
        if call.hop or not (call.mode is Mode.DISTRIBUTED or _astray(call, key, fleet)):
            return _alone(local, key, "hop" if call.hop else "local", now)
        if model is None or key is None or is_cloud(model) or local.inventory.stub(key):
            return _alone(local, key, "local", now)
        sight = look(call, key, fleet, now)
        if not sight.known:
            if call.forced is None:
                return replace(_alone(local, key, "local", now), known=False)
            # Whoever was named says itself that it does not have the model.
            sight = Sight(live=list(pool(call, fleet)))
        mode = _SIDES.get(call.side or "", self._mode)
        return self._ranked(_Case(call, fleet, sight, mode, key, now))

    def _ranked(self, case: _Case) -> Ranking:
        sight = case.sight
        if len(sight.live) == 1 and not sight.blocked:
            return _single(case)
        ordered, first = self._ordered(case)
        digest = _reference(case, first)
        candidates = self._by_digest(case, ordered, digest)
        holdable = len(ordered) > 1 and may_hold(candidates, case.key)
        if not candidates:
            candidates = self._by_digest(case, _last_gasp(case), digest)
        passed_over = _passed_over(case, candidates)
        return Ranking(
            candidates=tuple(candidates),
            key=case.key,
            passed_over=passed_over,
            away=away(sight, case.key) if sight.blocked or sight.doubted else (),
            holdable=holdable,
            known=sight.known,
            leads=passed_over is None and _leads(case, candidates),
        )

    def _ordered(self, case: _Case) -> tuple[list[Candidate], Upstream | None]:
        """The live ones, best first; and the first choice, were nobody busy or in doubt."""
        tiers: dict[Tier, list[Upstream]] = {}
        for upstream in case.sight.live:
            tiers.setdefault(_tier(upstream, case.mode), []).append(upstream)
        free: list[Candidate] = []
        busy: list[Candidate] = []
        doubted: list[Candidate] = []
        first: Upstream | None = None
        left = False
        order = sorted(tiers)
        sides = [side for side, _ in order]
        for tier in order:
            tiered = sides.count(tier[0]) > 1
            group = self._group(case, tiers[tier], left=left, tiered=tiered)
            if first is None:
                first = group[0].upstream
            left = left or all(one.busy for one in group)
            for one in group:
                if one.upstream in case.sight.doubted:
                    doubted.append(one)
                else:
                    (busy if one.busy else free).append(one)
        if len(busy) > 1:
            busy = by_wait(case.key, busy)
        return free + busy + doubted, first

    def _group(
        self, case: _Case, tier: list[Upstream], *, left: bool, tiered: bool
    ) -> Sequence[Candidate]:
        """The candidates of one tier in the policy's order; who starts slowly is last."""
        group: Sequence[Candidate] = [
            _candidate(case, one, left=left, tiered=tiered) for one in tier
        ]
        if len(group) == 1:
            return group
        group = self._policy.rank(case.call, group)
        slow = [one for one in group if self._starts_slowly(one.upstream, case.now)]
        return [one for one in group if one not in slow] + slow if slow else group

    def _starts_slowly(self, upstream: Upstream, now: float) -> bool:
        """Whether a node that has just come back leaves this call to others of its tier."""
        if upstream.state is not NodeState.WARMING:
            return False
        return self._dice.random() >= upstream.health.warmth(now)

    def _by_digest(
        self, case: _Case, ordered: list[Candidate], digest: str | None
    ) -> list[Candidate]:
        """Those with this digest first; the others marked and last, or not at all."""
        if digest is None or self._digests is Digests.IGNORE:
            return ordered
        equal: list[Candidate] = []
        other: list[Candidate] = []
        for one in ordered:
            theirs = one.upstream.inventory.digest(case.key)
            (equal if theirs is None or theirs == digest else other).append(one)
        if not other or self._digests is Digests.REQUIRE or case.call.bound_to_digest:
            return equal
        for one in other:
            reason = one.reason if one.reason in STRONG else "digest-conflict"
            equal.append(replace(one, conflict=True, reason=reason))
        return equal


def _astray(call: Call, key: str | None, fleet: Fleet) -> bool:
    """Standalone for want of answers, and the model is only on a node that is away.

    It is asked all the same: a 404 of our own Ollama would say that there is no such model.
    """
    if call.mode is not Mode.STANDALONE or fleet.reason != ModeReason.NO_NODE_ANSWERS:
        return False
    here = fleet.local.inventory
    return key is not None and here.known and not here.had(key) and bool(fleet.holders(key))


def _alone(local: Upstream, key: str | None, reason: str, now: float) -> Ranking:
    """The local Ollama answers, whatever its state."""
    busy, loaded = local.busy(key, now), key is not None and local.inventory.has_loaded(key)
    return Ranking((Candidate(local, reason, local.score(), busy, loaded),), key)


def _single(case: _Case) -> Ranking:
    """Nobody else has the model: there is nothing to order."""
    candidates = [_candidate(case, case.sight.live[0], left=False, tiered=False)]
    return Ranking(
        candidates=tuple(candidates),
        key=case.key,
        passed_over=_passed_over(case, candidates),
        away=away(case.sight, case.key) if case.sight.doubted else (),
        known=case.sight.known,
        leads=_leads(case, candidates),
    )


def _leads(case: _Case, candidates: list[Candidate]) -> bool:
    """Whether the first is free, beyond doubt, and alone in its tier."""
    if case.call.forced is not None or not candidates:
        return False
    first, best = candidates[0].upstream, candidates[0]
    if best.busy or best.conflict or best.reason == "busy" or first in case.sight.doubted:
        return False
    if "circuit-open" in case.sight.blocked.values():
        return False  # that ends with time, and nothing tells of it
    tier = _tier(first, case.mode)
    return sum(_tier(one, case.mode) == tier for one in case.sight.live) == 1


def _tier(upstream: Upstream, mode: Routing) -> Tier:
    node = upstream.node
    if mode is Routing.BALANCED:
        return 0, node.priority
    return int(node.local is (mode is Routing.REMOTE_FIRST)), node.priority


def _candidate(case: _Case, upstream: Upstream, *, left: bool, tiered: bool) -> Candidate:
    busy = upstream.busy(case.key, case.now)
    if left and not busy and case.call.forced is None:
        reason = "busy"
    else:
        reason = _reason(case, upstream, tiered=tiered)
    loaded = upstream.inventory.has_loaded(case.key)
    return Candidate(upstream, reason, upstream.score(), busy, loaded)


def _reason(case: _Case, upstream: Upstream, *, tiered: bool) -> str:
    """Why it went there, where nobody before it was busy."""
    if case.call.forced is not None:
        return "forced"
    if upstream.node.local:
        if case.mode is Routing.REMOTE_FIRST and not case.elsewhere:
            return "model-missing"
        return "policy" if case.mode is Routing.BALANCED and case.elsewhere else "local"
    if case.mode is not Routing.REMOTE_FIRST and not case.here:
        return "model-missing"
    return "priority" if tiered else "policy"


def may_hold(candidates: list[Candidate], key: str) -> bool:
    """Whether several could take the call now, and nobody's slots are a guess."""
    equal = 0
    for one in candidates:
        if not one.conflict:
            if not one.upstream.slots(one.key(key))[1]:
                return False
            equal += 1
    return equal > 1


def by_wait(key: str, busy: list[Candidate]) -> list[Candidate]:
    """Busy ones by expected wait, or by calls there where the slots of some are only guessed."""
    slots = {one: one.upstream.slots(one.key(key)) for one in busy}
    if all(declared for _, declared in slots.values()):
        return sorted(busy, key=lambda one: one.score / slots[one][0])
    return sorted(busy, key=lambda one: one.upstream.load)


def _reference(case: _Case, first: Upstream | None) -> str | None:
    """The digest of the first choice; one that is away keeps it, if its tier is nearer."""
    for upstream in case.sight.blocked:
        if first is None or _tier(upstream, case.mode) < _tier(first, case.mode):
            first = upstream
    return None if first is None else first.inventory.digest(case.key)


def _last_gasp(case: _Case) -> list[Candidate]:
    """All who hold the model are down or left out: the local one, then who failed longest ago."""
    order = sorted(case.sight.blocked, key=lambda one: (not one.node.local, one.failed_at))
    reason = "last-gasp" if case.call.forced is None else "forced"
    return [Candidate(one, reason, one.score(), one.busy(case.key, case.now)) for one in order]


def _passed_over(case: _Case, candidates: list[Candidate]) -> str | None:
    """Why the preferred side does not come first, where that is because it is down."""
    if not candidates or case.call.forced is not None:
        return None
    first, local, blocked = candidates[0].upstream, case.fleet.local, case.sight.blocked
    if case.mode is Routing.LOCAL_FIRST and first is not local:
        suspect = local in case.sight.doubted and local.state is NodeState.SUSPECT
        return "local-unhealthy" if suspect else blocked.get(local)
    if case.mode is not Routing.REMOTE_FIRST or first is not local:
        return None
    for upstream, word in blocked.items():
        if upstream is not local:
            return word
    if any(one.state is NodeState.SUSPECT for one in case.sight.doubted):
        return "node-down"
    gone = [one.state is NodeState.DOWN for one in case.fleet.others]
    return "no-nodes" if gone and all(gone) else None
