"""Who could take a call, and who could not and why: what the router orders afterwards.

Owns the filters (model, patterns, kind, state, circuit, cooldown, force headers).
It must not know sides, tiers or policies.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from ollama_wrap.call import Call
from ollama_wrap.dialects.runner import runner
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.upstream import Upstream

#: words of X-Ollama-Fallback-Reason that say: it does not answer
AWAY = frozenset({"node-down", "local-unhealthy"})


@dataclass(slots=True)
class Sight:
    """The holders of a model.

    `live` may be asked; `doubted` are those of them that come last. `blocked`
    may not, each with a word of X-Ollama-Fallback-Reason. `known`: somebody is
    known to hold the model.
    """

    live: list[Upstream] = field(default_factory=list)
    doubted: list[Upstream] = field(default_factory=list)
    blocked: dict[Upstream, str] = field(default_factory=dict)
    known: bool = False


def look(
    call: Call, key: str, fleet: Fleet, now: float, among: Sequence[Upstream] | None = None
) -> Sight:
    """Sort the holders of the model, or those `among` some, by whether they may be asked."""
    sight, options = Sight(), partial(runner, call.body)
    for upstream in pool(call, fleet) if among is None else among:
        inventory = upstream.inventory
        held = inventory.had(key)
        # Until the local Ollama has listed its models it may have any.
        if not held and (inventory.known or not upstream.node.local):
            continue
        if upstream.routable and call.operation not in upstream.lacking and upstream.accepts(key):
            cooling = upstream.cooling(key, now, options)
            _place(upstream, fleet, sight, now, cooling=cooling)
            sight.known = sight.known or held
    return sight


def pool(call: Call, fleet: Fleet) -> Sequence[Upstream]:
    """Who may be looked at: all, or the side that a force header names without what is down."""
    if call.forced is None:
        return fleet.upstreams
    if call.forced == "remote":
        named: Sequence[Upstream] = fleet.others
    else:
        found = fleet.find(call.forced)
        named = () if found is None else (found,)
    return [one for one in named if one.routable and one.state is not NodeState.DOWN]


def away(sight: Sight, key: str) -> tuple[tuple[str, float], ...]:
    """Id and wall time of the last answer of each holder that does not answer."""
    silent = [one for one, word in sight.blocked.items() if word in AWAY]
    silent += [one for one in sight.doubted if not one.health.ever_answered]
    return tuple(
        (one.node.id, max(one.health.last_seen_wall or 0.0, one.inventory.seen.get(key, 0.0)))
        for one in silent
        if one.inventory.had(key)
    )


def _place(upstream: Upstream, fleet: Fleet, sight: Sight, now: float, *, cooling: bool) -> None:
    word = upstream.obstacle(now)
    if cooling:
        sight.blocked[upstream] = word or "circuit-open"
    elif word is None:
        sight.live.append(upstream)
        if upstream.doubted:
            sight.doubted.append(upstream)
    # Were all of them left out at once, nobody would find out that they are back.
    elif word == "circuit-open" and not upstream.node.local and upstream in fleet.spared(now):
        sight.live.append(upstream)
        sight.doubted.append(upstream)
    else:
        sight.blocked[upstream] = word
