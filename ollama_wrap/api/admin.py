"""`/admin/*`: an operator's choices, and the numbers to make them by.

A choice is in force when it is answered, and stored before that; what cannot be
stored changes nothing. Who may come here is the token's matter.
"""

from ollama_wrap.api import shapes
from ollama_wrap.api.distributed import numbers
from ollama_wrap.api.surface import Answer, Asked, Parts, Row, Scope, shown
from ollama_wrap.call import Mode
from ollama_wrap.errors import BadCall, CallerError, ConfigError
from ollama_wrap.observe import log


async def mode(parts: Parts, asked: Asked) -> Answer:
    """`mode` in the answer is the one that holds now, which need not be the one asked for."""
    word = asked.only("mode")
    if not isinstance(word, str) or word not in tuple(Mode):
        modes = [one.value for one in Mode]
        raise BadCall(f"mode is one of {modes}", code="INVALID_MODE", details={"modes": modes})
    previous = parts.fleets.current.mode
    await parts.choices.choose_mode(Mode(word))
    fleet = parts.fleets.current
    changed = {"mode": fleet.mode.value, "previous": previous.value, "reason": str(fleet.reason)}
    log.get(__name__).info("mode chosen", choice=word, client=asked.call.client, **changed)
    return shown(changed)


async def fallback(parts: Parts, asked: Asked) -> Answer:
    enabled = asked.only("enabled")
    if not isinstance(enabled, bool):
        raise BadCall("enabled is true or false")
    previous = parts.choices.fallback
    await parts.choices.choose_fallback(enabled=enabled)
    changed = {"enabled": parts.choices.fallback, "previous": previous}
    log.get(__name__).info("fallback chosen", client=asked.call.client, **changed)
    return shown(changed)


async def reload(parts: Parts, asked: Asked) -> Answer:
    """All of the settings files holds when it is answered, or nothing of them."""
    if asked.body.strip() not in (b"", b"{}"):
        raise BadCall("send no body, or an empty object: what to read is known")
    if parts.reload is None:
        raise CallerError(
            "the settings were given by the program that runs this; there is nothing to read anew",
            status=409,
            code="CONFLICT",
        )
    try:
        anew = await parts.reload()
    except ConfigError as error:
        raise BadCall(
            "the settings files cannot be used, nothing has changed: " + "; ".join(error.problems),
            details={"problems": error.problems},
        ) from error
    return shown(
        {
            "changed": anew.changed,
            "restart": anew.restart,
            "warnings": anew.settings.warnings,
        }
    )


async def stats(parts: Parts, _: Asked) -> Answer:
    fleet = parts.fleets.current
    held = shapes.held(fleet)
    return shown(
        {
            "mode": fleet.mode.value,
            "uptime": round(parts.clock.monotonic() - parts.about.started, 3),
            "cluster_size": len(fleet.upstreams),
            "active_nodes": shapes.active(fleet),
            "total_models": len(held),
            "distributed_models": sum(len(holders) > 1 for holders in held.values()),
            "active_runners": shapes.runners(fleet)["active_runners"],
            **await numbers(parts),
        }
    )


ROWS = (
    Row("POST", "/admin/mode", Scope.ADMIN, mode),
    Row("POST", "/admin/fallback", Scope.ADMIN, fallback),
    Row("POST", "/admin/reload", Scope.ADMIN, reload),
    Row("GET", "/admin/stats", Scope.ADMIN, stats),
)
