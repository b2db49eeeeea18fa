"""An answer that was kept, for a call that no node could answer."""

from collections.abc import Callable

from ollama_wrap.call import Call, Header, Mode
from ollama_wrap.clock import Clock
from ollama_wrap.errors import AttemptsFailed, NoUpstream, Overloaded, Unavailable
from ollama_wrap.proxy.cache import Cache, Entry
from ollama_wrap.reply import Origin, Reply, Sink

#: Words of an attempt that say nothing of a failure.
_NO_FAILURE = frozenset({"served", "busy", "client-left"})


class Cached:
    """Gives kept answers. `fallback_on`: whether an operator lets them be given.

    `hit` and `miss` are told of each call that came here.
    """

    def __init__(
        self,
        cache: Cache,
        clock: Clock,
        fallback_on: Callable[[], bool],
        hit: Callable[[], None],
        miss: Callable[[], None],
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._fallback_on = fallback_on
        self._hit = hit
        self._miss = miss

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        """See `Responder`."""
        # A force header leaves no other way; under overload nodes are there, and are asked again.
        if call.forced is not None and call.mode is Mode.DISTRIBUTED:
            raise NoUpstream("a forced request has no fallback")
        if isinstance(before, Overloaded) or not self._fallback_on():
            raise NoUpstream("no kept answer is given here")
        entry = self._cache.find(call)
        if entry is None:
            self._miss()
            raise NoUpstream("no answer to this was kept")
        self._hit()
        attempts = before.attempts if isinstance(before, AttemptsFailed) else ()
        origin = Origin(
            fallback=_reason(call, attempts),
            attempts=attempts,
            age=max(0, int(self._clock.monotonic() - entry.at)),
        )
        return _reply(entry, origin)


class Kept:
    """A Source whose body is all here."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def start(self, sink: Sink) -> None:
        """See `reply.Source`."""
        if self._pieces:
            sink.feed(self._pieces)
        sink.end(None)

    def pause(self) -> None:
        """See `reply.Source`; nothing comes from anywhere."""

    def resume(self) -> None:
        """See `reply.Source`."""

    def close(self) -> None:
        """See `reply.Source`."""


def _reply(entry: Entry, origin: Origin) -> Reply:
    headers: list[Header] = list(entry.headers)
    # In the form in which it came: whole, or line by line.
    if not entry.streamed:
        return Reply(200, headers, entry.body, b"OK", origin)
    headers.append((b"Transfer-Encoding", b"chunked"))
    pieces = entry.body.splitlines(keepends=True) if entry.lines else [entry.body]
    return Reply(200, headers, Kept(pieces), b"OK", origin)


def _reason(call: Call, attempts: tuple[tuple[str, str], ...]) -> str:
    """Why the cache was asked: the failure of the first choice, if one was asked."""
    if call.mode is Mode.STANDALONE:
        return "standalone-mode"
    return next((word for _, word in attempts if word not in _NO_FAILURE), "no-nodes")
