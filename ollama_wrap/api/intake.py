"""The body of a request: kept whole where it can be sent again, else streamed past its beginning.

Owns what is read of a body before somebody answers, and what its reading adds to
the Call. It must not know nodes, nor what the fields of a body mean (`dialects`).
What is read is counted while it comes: bodies that never end must not fill the memory.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ollama_wrap import dialects
from ollama_wrap.call import Call, Kind, LongBody, Upload
from ollama_wrap.dialects import Route
from ollama_wrap.proxy.budget import Budget
from ollama_wrap.wire.base import Exchange

#: Bytes of a body that are not worth counting before it is whole.
_SHORT = 64 * 1024
#: Bytes of a body that is read while it comes, and kept in parts of at least so many.
_LONG, _PART = 1024 * 1024, 64 * 1024
#: Bytes of a body that is not kept after which its model is looked for, one try each.
_LOOKS = (64 * 1024, 1024 * 1024, 8 * 1024 * 1024)


@dataclass(slots=True)
class Begun:
    """An Upload whose beginning has been read."""

    parts: list[bytes]
    rest: Upload

    async def read(self) -> bytes:
        """See `Upload`."""
        if not self.parts:
            return await self.rest.read()
        await asyncio.sleep(0)  # others have their turn between two parts
        return self.parts.pop(0)


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
            source = await _gather(exchange, call, route, budget)
        if call.body is None:
            await _read_beginning(source, call, route, budget)
            return
        budget.kept += len(call.body)
    if route.reads_body and isinstance(call.body, bytes):
        _understand(call, dialects.read(route, call.body, call.headers))
    if call.targets and call.operation in {"pull", "push", "delete"}:
        call.kind = Kind.SPREAD


def take(exchange: Exchange, call: Call, route: Route, budget: Budget) -> None:
    """As `read`, of a body that is here to its end."""
    call.body = exchange.taken()
    budget.kept += len(call.body)
    _understand(call, dialects.read(route, call.body, call.headers))


class _Coming:
    """What has come of a body, in parts of 64 KiB or more; read from when `scan` is called."""

    def __init__(self, call: Call, route: Route) -> None:
        self._call, self._route = call, route
        self._parts: list[bytes] = []
        self._short = bytearray()
        self._reading = dialects.incoming(route, call.headers)
        self._scanned = 0
        self.size = 0

    def take(self, part: bytes) -> None:
        """The next bytes."""
        self.size += len(part)
        # Each part costs as much as a hundred bytes: those that trickle in are put together.
        if len(part) >= _PART:
            self._flush()
            self._parts.append(part)
            return
        self._short += part
        if len(self._short) >= _PART:
            self._flush()

    def _flush(self) -> None:
        if self._short:
            self._parts.append(bytes(self._short))
            self._short.clear()

    async def scan(self) -> None:
        """Read what has not been read yet; others have their turn after every 64 KiB."""
        reading = self._reading
        while reading is not None and self._scanned < len(self._parts):
            part = self._parts[self._scanned]
            self._scanned += 1
            for at in range(0, len(part), _PART):
                for piece in reading.plain(part[at : at + _PART]):
                    reading.feed(piece)
                    await asyncio.sleep(0)

    async def said(self, *, whole: bool) -> dialects.Reading | None:
        """What it says, or as much of it as is here; `Call.named` too where it is long."""
        self._flush()
        await self.scan()
        if self._reading is None:
            return dialects.read(self._route, b"", self._call.headers)
        self._call.named = self._reading.named() if whole else ()
        return self._reading.reading(whole=whole)

    def body(self) -> bytes | LongBody:
        """All of it."""
        self._flush()
        if self.size <= _LONG:
            return b"".join(self._parts)
        return LongBody(tuple(self._parts), self.size)

    def upload(self, rest: Upload) -> Begun:
        """What was read is sent all the same."""
        self._flush()
        return Begun(self._parts, rest)


async def _gather(exchange: Exchange, call: Call, route: Route, budget: Budget) -> Upload:
    """Give `call` its body while that may be kept; else all of it is still to be read."""
    come = _Coming(call, route)
    with _counted(budget) as count:
        while part := await exchange.read():
            come.take(part)
            if not budget.keeps(count(part)):
                return come.upload(exchange)
            if come.size > _LONG:
                await come.scan()
        if come.size > _LONG and route.reads_body:
            _understand(call, await come.said(whole=True))
    call.body = come.body()
    return exchange


async def _read_beginning(source: Upload, call: Call, route: Route, budget: Budget) -> None:
    """Too large to be kept: inference goes where its model is, once; all else as it came."""
    call.rest, call.repeatable = source, False
    if call.kind is not Kind.INFER:
        call.kind = Kind.OTHER if call.kind is Kind.OTHER else Kind.ONCE
        return
    reading, come = None, _Coming(call, route)
    with _counted(budget) as count:
        # The model stands near the beginning, or, behind pictures, very far from it.
        for look in _LOOKS:
            while come.size < look and (part := await source.read()):
                come.take(part)
                if count(part) > _SHORT and budget.full:
                    break
            reading = await come.said(whole=False)
            if reading is not None or come.size < look:
                break
    call.rest = come.upload(source)
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
