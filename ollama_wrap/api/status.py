"""`/health*` and `/metrics`: for load balancers, supervisors and Prometheus.

`/health*` is open to everybody, so it says nothing that tells nodes or models apart.
"""

from ollama_wrap.api import shapes
from ollama_wrap.api.surface import Answer, Asked, Parts, Row, Scope, shown
from ollama_wrap.observe.metrics import CONTENT_TYPE


async def health(parts: Parts, _: Asked) -> Answer:
    """503 when nothing can answer."""
    shape = shapes.health(parts.fleets.current, parts.clock.monotonic())
    return shown(shape, 503 if shape["status"] == "unhealthy" else 200)


async def live(_: Parts, __: Asked) -> Answer:
    return shown({"status": "alive"})


async def ready(parts: Parts, _: Asked) -> Answer:
    """503 until the local Ollama was asked once, whatever came of it, and while draining."""
    if parts.draining():
        return shown({"status": "draining"}, 503)
    return shown({"status": "ready"}) if parts.ready() else shown({"status": "starting"}, 503)


async def metrics(parts: Parts, _: Asked) -> Answer:
    return Answer(parts.metrics.render(), media=CONTENT_TYPE.encode())


ROWS = (
    Row("GET", "/health", Scope.OPEN, health),
    Row("GET", "/health/live", Scope.OPEN, live),
    Row("GET", "/health/ready", Scope.OPEN, ready),
    Row("GET", "/metrics", Scope.READ, metrics),
)
