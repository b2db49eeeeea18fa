"""What our own routes say of nodes and models, as plain values for JSON. Pure.

What is not known is None, never invented. A node is *in use* if calls may go to it
in the present mode, and *answers* if its last probes did. It must not know routes,
nor where the numbers of requests come from.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from ollama_wrap.call import Mode
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.inventory import Model
from ollama_wrap.nodes.names import short
from ollama_wrap.nodes.upstream import Upstream

Shape = dict[str, object]
#: who holds a model; no Model where only an earlier run saw it there
Holders = list[tuple[Upstream, Model | None]]

_AWAY = frozenset({NodeState.DOWN, NodeState.INCOMPATIBLE})
_PRESENT = frozenset({NodeState.UP, NodeState.SUSPECT, NodeState.WARMING})


class Fingerprint:
    """A hash over a node's models that changes when they do; made anew only for a new list."""

    def __init__(self) -> None:
        self._models: Mapping[str, Model] | None = None
        self._text = ""

    def of(self, models: Mapping[str, Model]) -> str:
        """16 hexadecimal digits."""
        if models is not self._models:
            lines = sorted(f"{key} {one.digest} {one.remote}\n" for key, one in models.items())
            text = "".join(lines).encode("utf-8", "surrogatepass")
            self._text = hashlib.blake2b(text, digest_size=8).hexdigest()
            self._models = models
        return self._text


def used(fleet: Fleet) -> tuple[Upstream, ...]:
    """The nodes that calls may go to."""
    return fleet.upstreams if fleet.mode is Mode.DISTRIBUTED else (fleet.local,)


def answers(upstream: Upstream) -> bool:
    """Whether it answers, as far as its last probes say; being drained changes nothing of it."""
    health = upstream.health
    starting = health.probed is NodeState.JOINING and health.greeted
    return upstream.state not in _AWAY and (health.probed in _PRESENT or starting)


def active(fleet: Fleet) -> int:
    """How many nodes in use answer."""
    return sum(map(answers, used(fleet)))


def health(fleet: Fleet, now: float) -> Shape:
    """`/health`: counts and no names; `nodes` are the others."""
    local = answers(fleet.local)
    others = [one for one in used(fleet) if one is not fleet.local]
    up = [one for one in others if answers(one)]
    if not local and not any(one.available(now) for one in up):
        word = "unhealthy"
    else:
        word = "healthy" if local and len(up) == len(others) else "degraded"
    return {
        "status": word,
        "mode": fleet.mode.value,
        "local": local,
        "nodes": {"up": len(up), "known": len(fleet.others)},
    }


def node(upstream: Upstream, now: float, waiting: int) -> Shape:
    """One entry of `nodes`; `waiting`: calls that wait here for a place."""
    declared, found, known = upstream.node, upstream.health, upstream.inventory
    # A word of its sidecar has no time that we know.
    current = upstream.state is found.state
    return {
        "id": declared.id,
        "address": declared.address,
        "kind": declared.kind.value,
        "sidecar": declared.local or upstream.sidecar is not None,
        "status": upstream.state.value,
        "status_since": moment(found.since_wall) if current else None,
        "last_seen": moment(found.last_seen_wall),
        "version": known.version,
        "models": sorted(one.name for one in known.models.values()) if known.known else None,
        "loaded": loaded(upstream),
        "in_flight": in_flight(upstream),
        "queued": _queued(upstream, waiting),
        "slots": slots(upstream),
        "weight": declared.weight,
        "priority": declared.priority,
        "circuit": upstream.circuit.state(now).value,
        "latency": milliseconds(upstream.latency),
        "capacity": None,
        "usage": None,
        "error": found.error,
    }


def models(fleet: Fleet) -> list[Shape]:
    """Every model that a node is known to hold, by name."""
    return [_model(key, holders) for key, holders in sorted(held(fleet).items())]


def replicas(fleet: Fleet, key: str) -> Shape | None:
    """Where one model is; None: nowhere that is known."""
    holders = held(fleet).get(key)
    if holders is None:
        return None
    rows = [
        {
            "id": upstream.node.id,
            "status": upstream.state.value,
            "digest": _digest(model),
            "loaded": _has_loaded(upstream, key),
            "last_seen": moment(upstream.inventory.seen.get(key)),
        }
        for upstream, model in holders
    ]
    return {"model": _name(key, holders), "replicas": rows, "conflict": _conflict(holders)}


def held(fleet: Fleet) -> dict[str, Holders]:
    """Who holds which model; other nodes' stubs of cloud models are not held there."""
    found: dict[str, Holders] = {}
    for upstream in fleet.upstreams:
        inventory = upstream.inventory
        if not inventory.known:
            # It has listed nothing since the start: what an earlier run saw there counts.
            for key in inventory.seen:
                found.setdefault(key, []).append((upstream, None))
        for key, model in inventory.models.items():
            # Any node may have a stub of a cloud model; it is answered by an account.
            if upstream.node.local or not model.remote:
                found.setdefault(key, []).append((upstream, model))
    return found


def runners(fleet: Fleet) -> Shape:
    """`runner_stats`: distinct models in memory, copies of them, and the load of each node."""
    # Nodes that nobody asks at present may hold anything.
    inside = [keys for one in used(fleet) if (keys := _loaded_keys(one)) is not None]
    by_node = {
        one.node.id: {"in_flight": in_flight(one), "slots": slots(one), "loaded": loaded(one)}
        for one in fleet.upstreams
    }
    return {
        "loaded_models": len(set().union(*inside)) if inside else None,
        "active_runners": sum(map(len, inside)) if inside else None,
        "by_node": by_node,
    }


def loaded(upstream: Upstream) -> list[str] | None:
    """Names of the models that are in memory there."""
    keys, known = _loaded_keys(upstream), upstream.inventory.models
    if keys is None:
        return None
    return sorted(known[key].name if key in known else short(key) for key in keys)


def in_flight(upstream: Upstream) -> int:
    """Calls there: what its sidecar said last, where that is more than ours."""
    sidecar = upstream.sidecar
    return upstream.in_flight if sidecar is None else max(upstream.in_flight, sidecar.in_flight)


def slots(upstream: Upstream) -> int | None:
    """Calls that it runs at once for one model, where somebody declared or reported it."""
    count, said = upstream.slots(None)
    return count if said else None


def fitting(names: Iterable[str], most: int) -> list[str]:
    """The first of `names`, as many as fit into `most` bytes of JSON."""
    taken: list[str] = []
    for name in names:
        # With its comma.
        most -= len(json.dumps(name)) + 1
        if most < 0:
            break
        taken.append(name)
    return taken


def moment(wall: float | None) -> str | None:
    """A wall time as RFC 3339 in UTC; None also for one that never was."""
    if not wall:
        return None
    text = datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _model(key: str, holders: Holders) -> Shape:
    told = next((model for _, model in holders if model is not None), None)
    rows = [
        {
            "id": upstream.node.id,
            "digest": _digest(model),
            "loaded": _has_loaded(upstream, key),
        }
        for upstream, model in holders
    ]
    return {
        "name": _name(key, holders),
        "digest": _digest(told),
        "size": told.size or None if told is not None else None,
        "details": _details(told),
        "nodes": rows,
        "conflict": _conflict(holders),
    }


def _name(key: str, holders: Holders) -> str:
    return next((model.name for _, model in holders if model is not None), short(key))


def _digest(model: Model | None) -> str | None:
    return model.digest or None if model is not None else None


def _details(model: Model | None) -> object:
    if model is None or not model.raw:
        return None
    try:
        return json.loads(model.raw).get("details")
    except (ValueError, AttributeError, RecursionError):
        return None


def _conflict(holders: Holders) -> bool:
    return len({model.digest for _, model in holders if model is not None and model.digest}) > 1


def _has_loaded(upstream: Upstream, key: str) -> bool | None:
    keys = _loaded_keys(upstream)
    return None if keys is None else key in keys or upstream.inventory.has_loaded(key)


def _loaded_keys(upstream: Upstream) -> frozenset[str] | None:
    """None where it was not listed, or the node has gone since."""
    if upstream.state is NodeState.DOWN:
        return None
    if upstream.inventory.known:
        return frozenset(upstream.inventory.loaded)
    return None if upstream.sidecar is None else frozenset(upstream.sidecar.loaded)


def _queued(upstream: Upstream, waiting: int) -> int | None:
    if upstream.node.local:
        return waiting
    return None if upstream.sidecar is None else upstream.sidecar.queued
