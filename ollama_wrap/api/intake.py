"""The body of a request: kept whole where it can be sent again, else streamed past its beginning.

Owns what is read of a body before somebody answers, and what its reading adds to
the Call. It must not know nodes, nor what the fields of a body mean (`dialects`).
"""

from dataclasses import dataclass

from ollama_wrap import dialects
from ollama_wrap.call import Call, Kind, Upload
from ollama_wrap.dialects import Route
from ollama_wrap.proxy.budget import Budget
from ollama_wrap.wire.base import Exchange

#: Bytes of a body that is not kept after which its model is looked for, one try each.
_LOOKS = (64 * 1024, 1024 * 1024, 8 * 1024 * 1024)


@dataclass(slots=True)
class Begun:
    """An Upload whose beginning has been read."""

    beginning: bytes
    rest: Upload

    async def read(self) -> bytes:
        """See `Upload`."""
        part, self.beginning = self.beginning, b""
        return part or await self.rest.read()


async def read(exchange: Exchange, call: Call, route: Route, budget: Budget) -> None:
    """Find the model; keep the body where it can be sent again, and count it in `budget`."""
    if not exchange.has_body:
        call.body = b""
    elif call.operation == "blob" and call.method == "POST":
        call.body, call.rest = None, exchange
    else:
        call.body = await exchange.whole(budget.body_limit())
        if call.body is None:
            await _read_beginning(exchange, call, route)
            return
        budget.kept += len(call.body)
    if route.reads_body and call.body is not None:
        _understand(call, dialects.read(route, call.body, call.headers))
    if call.targets and call.operation in {"pull", "push", "delete"}:
        call.kind = Kind.SPREAD


def take(exchange: Exchange, call: Call, route: Route, budget: Budget) -> None:
    """As `read`, of a body that is here to its end."""
    call.body = exchange.taken()
    budget.kept += len(call.body)
    _understand(call, dialects.read(route, call.body, call.headers))


async def _read_beginning(exchange: Exchange, call: Call, route: Route) -> None:
    """Too large to be kept: inference goes where its model is, once; all else as it came."""
    call.rest, call.repeatable = exchange, False
    if call.kind is not Kind.INFER:
        call.kind = Kind.OTHER if call.kind is Kind.OTHER else Kind.ONCE
        return
    reading, beginning = None, bytearray()
    # The model stands near the beginning, or, behind pictures, very far from it.
    for look in _LOOKS:
        while len(beginning) < look and (part := await exchange.read()):
            beginning += part
        reading = dialects.read(route, bytes(beginning), call.headers, whole=False)
        if reading is not None or len(beginning) < look:
            break
    # What was read is sent all the same.
    call.rest = Begun(bytes(beginning), exchange)
    _understand(call, reading)
    call.repeatable = False


def _understand(call: Call, reading: dialects.Reading | None) -> None:
    # Stock takes the model of a form from the query first.
    in_query = call.operation == "transcriptions" and b"?" in call.target
    if reading is None or in_query:
        call.kind = Kind.OTHER  # stock says itself what is wrong with it
        return
    call.model, call.stream, call.kind = reading.model, reading.stream, reading.kind
    call.repeatable = reading.repeatable
    call.bound_to_digest, call.unload = reading.bound_to_digest, reading.unload
    call.follows, call.sources = reading.follows, reading.sources
