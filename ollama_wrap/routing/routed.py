"""Routed: a Router that asks the endpoints of an operator's rules first.

Owns which rule a call falls under and the order of that rule's endpoints: by
priority, then by weight; free before busy before doubted; equal digests before
others. Calls without a rule, and those whose endpoints cannot take them, are
ranked as if there were none. It must not know how rules are written, nor how a
body is changed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

from msgspec.structs import replace

from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.config.groups import Routing as Settings
from ollama_wrap.dialects.body import string_places
from ollama_wrap.errors import ConfigError
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.mode import ModeReason
from ollama_wrap.nodes.names import canonical, is_cloud, short
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.observe import log
from ollama_wrap.routing.narrow import Sight, away, look, pool
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.router import STRONG, Digests, Ranking, Router, by_wait, may_hold
from ollama_wrap.routing.routes import VARIABLE, Endpoint, Rule, parse_routes

_NAME = frozenset({"model"})
_NAMES = frozenset({"model", "name"})


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """An endpoint that has the model it is to be asked for, and whether it may be asked."""

    endpoint: Endpoint
    upstream: Upstream
    key: str
    #: the name to ask for, where it is not the call's own
    model: str | None
    sight: Sight


def open_router(
    settings: Settings, names: Collection[str], dice: Random, problems: list[str]
) -> Router:
    """The router that the settings ask for, where nodes have these `names`.

    Rules that cannot be read are added to `problems`. Raises ConfigError.
    """
    try:
        rules = parse_routes(settings.routes)
    except ConfigError as error:
        problems += error.problems
        rules = ()
    # A sidecar may still say that this is its second name.
    named = {one.node for rule in rules for one in rule.endpoints}
    for node in sorted(named.difference(names)):
        log.get(__name__).warning(f"{VARIABLE}: no node is known as {node!r}")
    if not rules:
        return Router(settings.mode, settings.strategy, settings.digests, dice)
    return Routed(settings, dice, rules)


class Routed(Router):
    """Ranks the endpoints of the first rule that matches the model's name."""

    def __init__(self, settings: Settings, dice: Random, rules: Sequence[Rule]) -> None:
        super().__init__(settings.mode, settings.strategy, settings.digests, dice)
        self._rules = tuple(rules)

    def rank(self, call: Call, fleet: Fleet, now: float) -> Ranking:
        """See `Router`; a candidate may have another `model` than the call."""
        key, rule = self._rule(call, fleet)
        if rule is None or key is None:
            return super().rank(call, fleet, now)
        choices = _choices(call, key, rule, fleet, now)
        if any(one.sight.known for one in choices):
            return self._by_rule(call, key, choices, now)
        # The next call for this model may have a body that another name can be written into.
        return replace(super().rank(call, fleet, now), leads=False)

    def _rule(self, call: Call, fleet: Fleet) -> tuple[str | None, Rule | None]:
        """The call's key, and the rule that it falls under."""
        name = call.model
        if name is None or call.hop or call.mode is Mode.LOCAL:
            return None, None
        ruled = call.kind is Kind.INFER or call.operation == "show"
        key = canonical(name) if ruled else None
        if key is None or is_cloud(name) or fleet.local.inventory.stub(key):
            return None, None
        shown = short(key)
        # People write patterns for the names they see.
        spellings = (name.strip().lower(), shown, shown.removesuffix(":latest"), key)
        return key, next((one for one in self._rules if one.matches(spellings)), None)

    def _by_rule(self, call: Call, key: str, choices: Sequence[_Choice], now: float) -> Ranking:
        seen, ordered = self._ordered_by_rule(call, key, choices, now)
        candidates = self._agreeing(call, key, seen, ordered)
        waits = len(ordered) > 1 and may_hold(candidates, key)
        if not candidates:
            candidates = self._agreeing(call, key, seen, _last_gasp(call, seen, now))
        silent = [one for one in choices if one.sight.blocked or one.sight.doubted]
        return Ranking(
            tuple(candidates),
            key,
            away=tuple(pair for one in silent for pair in away(one.sight, one.key)),
            holdable=waits,
        )

    def _ordered_by_rule(
        self, call: Call, key: str, choices: Sequence[_Choice], now: float
    ) -> tuple[list[_Choice], list[Candidate]]:
        """All choices by priority and the draw, and the live ones as candidates, best first."""
        seen: list[_Choice] = []
        free: list[Candidate] = []
        busy: list[Candidate] = []
        doubted: list[Candidate] = []
        left = False
        live = {one.endpoint.priority for one in choices if one.sight.live}
        reason = "priority" if len(live) > 1 else "policy"
        for priority in sorted({one.endpoint.priority for one in choices}):
            tier = [one for one in choices if one.endpoint.priority == priority]
            group = self._drawn([one for one in tier if one.sight.live], now)
            seen += group + [one for one in tier if not one.sight.live]
            made = [_candidate(call, one, reason, now, left=left) for one in group]
            left = left or (bool(made) and all(one.busy for one in made))
            for choice, one in zip(group, made, strict=True):
                (doubted if choice.sight.doubted else busy if one.busy else free).append(one)
        return seen, free + by_wait(key, busy) + doubted

    def _drawn(self, tier: list[_Choice], now: float) -> list[_Choice]:
        """By lot, in proportion to the weights; who starts slowly is last."""
        lots = {one: self._dice.expovariate(one.endpoint.weight) for one in tier}
        slow = {one: len(tier) > 1 and self._starts_slowly(one.upstream, now) for one in tier}
        return sorted(tier, key=lambda one: (slow[one], lots[one]))

    def _agreeing(
        self, call: Call, key: str, seen: Sequence[_Choice], ordered: list[Candidate]
    ) -> list[Candidate]:
        """As `Router` does by digest, for each model by itself: another was asked for by name."""
        if self._digests is Digests.IGNORE:
            return ordered
        # Tokens that mean the same only on one build mean nothing to another model.
        bound = call.bound_to_digest
        wanted: dict[str | None, str] = {}
        for one in seen:
            digest = one.upstream.inventory.digest(one.key)
            if digest is not None:
                wanted.setdefault(None if bound else one.key, digest)
        equal: list[Candidate] = []
        other: list[Candidate] = []
        for made in ordered:
            asked = made.key(key)
            theirs = made.upstream.inventory.digest(asked or "")
            same = theirs is None or theirs == wanted.get(None if bound else asked, theirs)
            (equal if same else other).append(made)
        if bound or self._digests is Digests.REQUIRE:
            return equal
        for made in other:
            reason = made.reason if made.reason in STRONG else "digest-conflict"
            equal.append(replace(made, conflict=True, reason=reason))
        return equal


def _choices(call: Call, key: str, rule: Rule, fleet: Fleet, now: float) -> list[_Choice]:
    """The rule's endpoints that the call may name and that have, or may have, their model."""
    alone = call.mode is Mode.STANDALONE and fleet.reason != ModeReason.NO_NODE_ANSWERS
    allowed = (fleet.local,) if alone else pool(call, fleet)
    found: list[_Choice] = []
    for endpoint in rule.endpoints:
        upstream = fleet.find(endpoint.node)
        theirs = canonical(endpoint.model) if endpoint.model is not None else key
        if upstream is None or upstream not in allowed or theirs is None:
            continue
        model = endpoint.model if theirs != key else None
        sight = look(call, theirs, fleet, now, among=(upstream,))
        if (sight.live or sight.blocked) and (model is None or _writable(call)):
            found.append(_Choice(endpoint, upstream, theirs, model, sight))
    return found


def _writable(call: Call) -> bool:
    """Whether another name can be written into the body."""
    if call.named is None:
        names = _NAMES if call.operation == "show" else _NAME
        call.named = string_places(call.body, names) if isinstance(call.body, bytes) else ()
    return bool(call.named)


def _candidate(call: Call, one: _Choice, reason: str, now: float, *, left: bool) -> Candidate:
    upstream = one.upstream
    busy = upstream.busy(one.key, now)
    if call.forced is not None:
        reason = "forced"
    elif left and not busy:
        reason = "busy"
    loaded = upstream.inventory.has_loaded(one.key)
    return Candidate(upstream, reason, upstream.score(), busy, loaded, model=one.model)


def _last_gasp(call: Call, choices: Sequence[_Choice], now: float) -> list[Candidate]:
    """As `Router`'s: none may be asked, and one of them is."""
    order = [one for one in choices if one.sight.blocked]
    order.sort(key=lambda one: (not one.upstream.node.local, one.upstream.failed_at))
    return [_candidate(call, one, "last-gasp", now, left=False) for one in order]
