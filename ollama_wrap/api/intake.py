"""The body of a request: kept whole where it can be sent again, else streamed past its beginning.

Owns what is read of a body before somebody answers, and what its reading adds to
the Call. It must not know nodes, nor what the fields of a body mean (`dialects`).
What is read is counted while it comes: bodies that never end must not fill the memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ollama_wrap import dialects
from ollama_wrap.call import Call, Kind, Upload
from ollama_wrap.dialects import Route
from ollama_wrap.proxy.budget import Budget
from ollama_wrap.wire.base import Exchange

#: Bytes of a body that are not worth counting before it is whole.
_SHORT = 64 * 1024
#: Bytes of a body that is not kept after which its model is looked for, one try each.
_LOOKS = (64 * 1024, 1024 * 1024, 8 * 1024 * 1024)


@dataclass(slots=True)
class Begun:
    """An Upload whose beginning has been read."""

    parts: list[bytes]
    rest: Upload

    async def read(self) -> bytes:
        """See `Upload`."""
        return self.parts.pop(0) if self.parts else await self.rest.read()


async def read(exchange: Exchange, call: Call, route: Route, budget: Budget) -> None:
    """Find the model; keep the body where it can be sent again, and count it in `budget`."""
    if not exchange.has_body:
        call.body = b""
    elif call.operation == "blob" and call.method == "POST":
        call.body, call.rest = None, exchange
    else:
        limit = budget.body_limit()
        call.body = await exchange.whole(min(limit, _SHORT))
        source: Upload = exchange
        if call.body is None and call.length <= limit:
            source = await _gather(exchange, call, budget)
        if call.body is None:
            await _read_beginning(source, call, route, budget)
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


async def _gather(source: Upload, call: Call, budget: Budget) -> Begun:
    """Give `call` its body while that may be kept; what has come of it is the beginning else."""
    parts: list[bytes] = []
    with _counted(budget) as count:
        while part := await source.read():
            parts.append(part)
            if not budget.keeps(count(part)):
                return Begun(parts, source)
    call.body = b"".join(parts)
    return Begun([], source)


async def _read_beginning(source: Upload, call: Call, route: Route, budget: Budget) -> None:
    """Too large to be kept: inference goes where its model is, once; all else as it came."""
    call.rest, call.repeatable = source, False
    if call.kind is not Kind.INFER:
        call.kind = Kind.OTHER if call.kind is Kind.OTHER else Kind.ONCE
        return
    reading, beginning = None, bytearray()
    with _counted(budget) as count:
        # The model stands near the beginning, or, behind pictures, very far from it.
        for look in _LOOKS:
            while len(beginning) < look and (part := await source.read()):
                beginning += part
                if count(part) > _SHORT and budget.full:
                    break
            reading = dialects.read(route, bytes(beginning), call.headers, whole=False)
            if reading is not None or len(beginning) < look:
                break
    # What was read is sent all the same.
    call.rest = Begun([bytes(beginning)], source)
    _understand(call, reading)
    call.repeatable = False


@contextmanager
def _counted(budget: Budget) -> Iterator[Callable[[bytes], int]]:
    """Count what is gathered here as kept; what counts it says how much that is by now."""
    size = 0

    def count(part: bytes) -> int:
        nonlocal size
        size += len(part)
        budget.kept += len(part)
        return size

    try:
        yield count
    finally:
        budget.kept -= size


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
