"""How long a node may take: to its first byte, for our bytes, in a gap, in all.

No limit of ours ends a call that nobody else can answer, unless an operator set it.
It must not know what the end of an attempt means.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ollama_wrap.call import Call, Kind
from ollama_wrap.errors import UpstreamTimeout
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.wire.answer import Answer

#: A gap is looked for so often within the time that it may take.
_LOOKS = 4
#: Seconds between two looks at what a node has taken of a long request.
_LOOK = 0.25
#: Bytes of a request that a node may be slow to take.
LARGE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that a node may take; 0: no limit.

    The first four are to its first byte. `write`: it takes nothing of a request;
    `idle`: a gap after the first byte; `total`: a whole answer.
    """

    meta: float = 5.0
    show: float = 15.0
    first_byte: float = 0.0
    first_byte_once: float = 0.0
    write: float = 30.0
    idle: float = 0.0
    total: float = 0.0

    @property
    def hard(self) -> bool:
        """Whether an operator limits the time to the first byte of inference."""
        return self.first_byte > 0 or self.total > 0

    def of(self, call: Call, upstream: Upstream) -> tuple[float, bool]:
        """The limit to the first byte; True: also where nobody else can answer."""
        limit, hard = self._first_byte(call, upstream)
        if self.total and (self.total < limit or not (limit and hard)):
            return self.total, True
        return limit, hard

    def _first_byte(self, call: Call, upstream: Upstream) -> tuple[float, bool]:
        if call.kind is Kind.INFER:
            return self.first_byte, True
        if call.kind is Kind.ONCE or upstream.node.local or not call.repeatable:
            return self.first_byte_once, True
        return self.show if call.kind is Kind.FOLLOW else self.meta, False


async def taken(
    answer: Answer, what: "asyncio.Future[None]", seconds: float, may_move: Callable[[], bool]
) -> None:
    """Come back when the node has taken the request, or `what` is done.

    Raises UpstreamTimeout where it takes nothing for so long and another could.
    """
    clock = asyncio.get_running_loop().time
    left, since = answer.unsent if seconds else 0, clock()
    # Often, so that a limit which begins when the last byte is sent begins then.
    while left > LARGE and not what.done():
        await asyncio.wait((what,), timeout=min(_LOOK, seconds / _LOOKS))
        before, left = left, answer.unsent
        if left != before:
            since = clock()
        elif clock() - since >= seconds and not what.done() and may_move():
            answer.close()
            raise UpstreamTimeout(f"it took nothing of the request for {seconds:g} s")


async def within(
    seconds: float, what: "asyncio.Future[None]", upload: "asyncio.Task[None] | None"
) -> None:
    """Come back when `what` is done, or so many seconds after the last byte of an upload."""
    if upload is not None:
        await asyncio.wait((upload, what), return_when=asyncio.FIRST_COMPLETED)
    await asyncio.wait((what,), timeout=seconds)


class Patience:
    """Ends an answer that has begun when an operator's limit has passed.

    `spent`: seconds that went by before. `paused`: we do not read, so gaps are ours.
    """

    def __init__(self, waits: Waits, answer: Answer, spent: float) -> None:
        self.paused = False
        self._waits = waits
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._since = now = self._loop.time()
        self._until = now + waits.total - spent
        self._seen = answer.received
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def stop(self) -> None:
        """The answer has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        answer, waits, now = self._answer, self._waits, self._loop.time()
        if answer.received != self._seen or self.paused:
            self._seen, self._since = answer.received, now
        if waits.total and now >= self._until:
            answer.fail(UpstreamTimeout(f"it was not whole within {waits.total:g} s"))
        elif waits.idle and now >= self._since + waits.idle:
            answer.fail(UpstreamTimeout(f"nothing came for {waits.idle:g} s"))
        else:
            again = [waits.idle / _LOOKS] if waits.idle else []
            again += [self._until - now] if waits.total else []
            self._timer = self._loop.call_later(min(again), self._look)
