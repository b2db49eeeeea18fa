"""What a head alone says of a request, worked out once for all requests that begin alike.

A client that keeps a connection sends the same head again and again, but for the
length of the body. Route, door and wishes follow from the head, the client and
the listener; a Plan holds them, with the Call that each such request starts from.
"""

import re
from collections.abc import Mapping

from msgspec import Struct

from ollama_wrap import dialects
from ollama_wrap.api.guards import ASK, FRESH, Door, Refusal
from ollama_wrap.call import Call, Kind, Priority
from ollama_wrap.dialects import Route
from ollama_wrap.wire.base import Exchange, Pace

PREFIX = "/ollama"
#: The field with the nonce of the self test at start; stock ignores it.
NONCE = b"x-ollama-wrap-nonce"
#: most milliseconds of a deadline: what is longer is none
_LONGEST = 10**9
#: most plans kept with one head: it comes from so many clients
_KEPT = 64

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}\Z")
_PACES = {Kind.INFER: Pace.LONG, Kind.ONCE: Pace.BULK}


class Plan(Struct, frozen=True):
    """`call` is the template; `until` is when the door has to be asked anew (monotonic).

    `seconds`: the deadline that the client gives. `loop`: why it cannot go on.
    """

    call: Call
    route: Route
    refusal: Refusal | None
    until: float
    seconds: float | None
    loop: str | None
    pace: Pace
    #: an ordinary inference call, with nothing that has to be looked at before its body
    usual: bool


class Planner:
    """Makes plans and keeps them with their heads."""

    def __init__(self, door: Door, node_id: str, nonce: bytes) -> None:
        self._door = door
        self._own_id = node_id.encode()
        self._nonce = nonce

    def plan(self, exchange: Exchange, now: float) -> Plan:
        """The plan of a request."""
        notes, key = exchange.notes, exchange.ends
        plan = notes.get(key)
        if isinstance(plan, Plan) and now < plan.until:
            return plan
        plan = self._make(exchange, path_of(exchange.target), now)
        # A verdict of the local Ollama holds for its own time.
        if plan.refusal is not ASK:
            if len(notes) >= _KEPT:
                notes.clear()
            notes[key] = plan
        return plan

    def _make(self, exchange: Exchange, path: str, now: float) -> Plan:
        call = _template(exchange, path)
        route = dialects.route(call.method, call.path)
        call.kind, call.operation, call.dialect = route.kind, route.operation, route.dialect
        call.repeatable, call.model = route.repeatable, route.model
        _, listener = exchange.ends
        refusal = self._door.stock(call, listener)
        if refusal is not None and self._door.redirects(call, listener):
            refusal = None
        seconds = _wishes(call)
        pace = _PACES.get(call.kind, Pace.BRIEF)
        # The lines for a node are made by the first call that goes there.
        call.lines = {}
        loop = self._loop(call)
        wishes = call.dry_run or call.targets or call.forced or call.hop
        call.plain = not (call.prefixed or call.hop or call.cors or call.method == "HEAD")
        usual = refusal is None and loop is None and seconds is None and not wishes
        usual = usual and b"expect" not in call.fields
        usual = usual and route.reads_body and route.kind is Kind.INFER
        usual = usual and route.operation != "transcriptions"
        return Plan(call, route, refusal, now + FRESH, seconds, loop, pace, usual)

    def _loop(self, call: Call) -> str | None:
        if call.fields.get(NONCE) == self._nonce:
            return "this is the sidecar that asked"
        # Our own id in `Via`, which only sidecars are given.
        passed = b"via" in call.fields and any(
            part.split()[1:2] == [self._own_id]
            for name, value in call.headers
            if name.lower() == b"via"
            for part in value.split(b",")
        )
        return (
            "this request was here before: two sidecars send it to each other" if passed else None
        )


def path_of(target: bytes) -> str:
    """A target up to its query."""
    return target.partition(b"?")[0].decode("latin-1")


def sent_id(fields: Mapping[bytes, bytes]) -> str:
    """The client's own id of a request, "" where there is none that we could repeat."""
    value = fields.get(b"x-request-id", b"")
    return value.decode() if _SANE_ID.match(value) else ""


def _template(exchange: Exchange, path: str) -> Call:
    fields, target = exchange.fields, exchange.target
    if path.startswith(PREFIX) and (len(path) == len(PREFIX) or path[len(PREFIX)] == "/"):
        path, target = path[len(PREFIX) :] or "/", target[len(PREFIX) :]
        target = target if target[:1] == b"/" else b"/" + target
    return Call(
        id=sent_id(fields),
        method=exchange.method,
        target=target,
        path=path,
        headers=exchange.headers,
        fields=fields,
        client=exchange.ends[0],
        http11=exchange.http11,
        sized=exchange.sized,
        prefixed=target is not exchange.target,
        hop=b"x-ollama-hop" in fields,
    )


def _wishes(call: Call) -> float | None:
    """What the client says to us, in headers that no node sees; returns its deadline in seconds."""
    fields = call.fields
    if (value := fields.get(b"x-ollama-target-nodes")) is not None:
        call.targets = tuple(
            name for part in value.decode("latin-1").split(",") if (name := part.strip())
        )
    if fields.get(b"x-ollama-force-local", b"").lower() == b"true":
        call.forced = "local"
    elif (value := fields.get(b"x-ollama-force-distributed")) is not None:
        name = value.decode("latin-1").strip()
        call.forced = "remote" if name.lower() == "true" else name or None
    side = fields.get(b"x-ollama-route", b"").decode("latin-1").lower()
    call.side = side if side in {"local", "remote"} else None
    call.dry_run = fields.get(b"x-dry-run", b"").lower() == b"true"
    call.no_store = b"no-store" in fields.get(b"cache-control", b"").lower()
    if fields.get(b"x-ollama-priority", b"").lower() == b"low":
        call.priority = Priority.LOW
    try:
        return min(max(0, int(fields[b"x-ollama-timeout-ms"])), _LONGEST) / 1000
    except (KeyError, ValueError):
        return None
