"""`/api/distributed/*`: what this sidecar knows of nodes, models and requests.

Nothing here asks a node: answers come from what is known. Ending a request is the
only thing that changes anything.
"""

import asyncio
from contextlib import suppress

from ollama_wrap.api import shapes
from ollama_wrap.api.surface import Answer, Asked, Parts, Row, Scope, shown
from ollama_wrap.errors import BadCall, CallerError, ModelUnknown, StateError
from ollama_wrap.nodes.names import canonical
from ollama_wrap.nodes.sidecar import PROTO
from ollama_wrap.observe import log
from ollama_wrap.proxy.running import Open
from ollama_wrap.state.names import MODE_CHOICE

#: seconds that a store may take to show that it answers
STORE_WITHIN = 1.0
#: bytes for the names in a ping, so that all of it stays under 4 KiB
PING_NAMES = 3072


async def status(parts: Parts, _: Asked) -> Answer:
    fleet, about = parts.fleets.current, parts.about
    return shown(
        {
            "distributed_mode": fleet.mode == "distributed",
            "mode": fleet.mode.value,
            "mode_reason": str(fleet.reason),
            "fallback_mode": parts.choices.fallback,
            "node_id": about.node_id,
            "cluster_size": len(fleet.upstreams),
            "active_nodes": shapes.active(fleet),
            "leader": None,
            "version": about.version,
            **await numbers(parts),
        }
    )


async def numbers(parts: Parts) -> shapes.Shape:
    """The three `…_stats` of `status`."""
    fleet, about, clock = parts.fleets.current, parts.about, parts.clock
    return {
        "scheduler_stats": _scheduler(parts),
        "runner_stats": shapes.runners(fleet),
        "integration_stats": {
            "local_addr": fleet.local.node.address,
            "local_healthy": shapes.answers(fleet.local),
            "uptime": round(clock.monotonic() - about.started, 3),
            "listen": about.listen,
            "store": about.store,
            "store_healthy": await _store_answers(parts),
            "overload": sorted(parts.strain.measures),
        },
    }


async def nodes(parts: Parts, _: Asked) -> Answer:
    now, waiting = parts.clock.monotonic(), parts.metrics.totals().waiting
    upstreams = parts.fleets.current.upstreams
    return shown({"nodes": [shapes.node(one, now, waiting) for one in upstreams]})


async def models(parts: Parts, _: Asked) -> Answer:
    return shown({"models": shapes.models(parts.fleets.current)})


async def replicas(parts: Parts, asked: Asked) -> Answer:
    name = asked.params["model"]
    key = canonical(name)
    if key is None:
        raise BadCall("this cannot be the name of a model")
    found = shapes.replicas(parts.fleets.current, key)
    if found is None:
        raise ModelUnknown(f"no node is known to hold {name!r}", details={"model": name})
    return shown(found)


async def ping(parts: Parts, _: Asked) -> Answer:
    """Other sidecars ask this every two seconds: at most 4 KiB, and little work."""
    about, local = parts.about, parts.fleets.current.local
    parts.pinged()
    names = shapes.loaded(local) or []
    return shown(
        {
            "id": about.node_id,
            "boot": about.boot,
            "proto": PROTO,
            "ollama": shapes.answers(local),
            "in_flight": local.in_flight,
            "queued": parts.metrics.totals().waiting,
            "slots": shapes.slots(local),
            "loaded": shapes.fitting(names, PING_NAMES),
            "drain": local.health.drain or parts.draining(),
            "saturated": parts.strain.refuse,
            "models_version": parts.fingerprint.of(local.inventory.models),
            "time": parts.clock.now(),
        }
    )


async def requests(parts: Parts, _: Asked) -> Answer:
    return shown({"requests": [_request(one) for one in parts.running.all()]})


async def end_request(parts: Parts, asked: Asked) -> Answer:
    number = asked.params["id"]
    if not parts.running.end(number):
        raise CallerError("no request of this id is running", status=404, code="NOT_FOUND")
    log.get(__name__).info("request ended by an operator", id=number, client=asked.call.client)
    return shown({"id": number, "ended": True})


async def metrics(parts: Parts, _: Asked) -> Answer:
    return shown(parts.metrics.as_dict())


_BASE = "/api/distributed"
ROWS = (
    Row("GET", f"{_BASE}/status", Scope.READ, status),
    Row("GET", f"{_BASE}/nodes", Scope.READ, nodes),
    Row("GET", f"{_BASE}/models", Scope.READ, models),
    Row("GET", f"{_BASE}/models/{{model:path}}/replicas", Scope.READ, replicas),
    Row("GET", f"{_BASE}/ping", Scope.READ, ping),
    Row("GET", f"{_BASE}/requests", Scope.REQUESTS, requests),
    Row("DELETE", f"{_BASE}/requests/{{id}}", Scope.WRITE, end_request),
    Row("GET", f"{_BASE}/metrics", Scope.READ, metrics),
)


def _scheduler(parts: Parts) -> shapes.Shape:
    totals, running = parts.metrics.totals(), len(parts.running)
    return {
        "total_requests": totals.ended + running,
        "completed_requests": totals.ended - totals.failed,
        "failed_requests": totals.failed,
        "queued_requests": totals.waiting,
        "in_flight": running - totals.waiting,
        "average_latency": shapes.milliseconds(totals.average_latency),
        "fallbacks": totals.fallbacks,
        "retries": totals.retries,
        "cache_hits": totals.cache_hits,
    }


async def _store_answers(parts: Parts) -> bool:
    with suppress(StateError, TimeoutError):
        async with asyncio.timeout(STORE_WITHIN):
            await parts.store.get(MODE_CHOICE)
            return True
    return False


def _request(one: Open) -> shapes.Shape:
    call, tap = one.call, one.tap
    origin = one.reply.origin if one.reply is not None else None
    return {
        "id": one.number,
        "request_id": call.id,
        "model": call.model,
        "node": origin.node if origin is not None else call.asked,
        "kind": call.kind.value,
        "caller": call.caller,
        "started": shapes.moment(one.started_wall),
        "first_byte": None if tap.first is None else round(tap.first - call.started, 6),
        # Nodes count tokens, and say so at the end.
        "tokens": None,
        "reason": origin.reason if origin is not None else None,
    }
