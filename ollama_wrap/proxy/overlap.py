"""Learns how many calls a node runs at once, from answers that streamed at the same time.

A node with one slot begins to answer the second call when the first answer has
ended. Pure; it must not know attempts, only when their answers began and ended.
"""

from dataclasses import dataclass

from ollama_wrap.nodes.upstream import Upstream

#: Seconds that two answers must have streamed together: less may be bytes that lay in between.
LEAST = 0.2


@dataclass(slots=True, eq=False)
class Stream:
    """One answer that streams; times are monotonic seconds."""

    began: float
    ended: float | None = None
    #: its client was slow: its bytes may be older than they look
    paused: bool = False
    #: those that streamed when this one began
    beside: tuple["Stream", ...] = ()


class Overlap:
    """The answers that stream now, by node and model."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str | None], list[Stream]] = {}

    def begin(self, upstream: Upstream, key: str | None, now: float) -> Stream:
        """The first byte of an answer is here."""
        group = self._open.setdefault((upstream.node.id, key), [])
        stream = Stream(now, beside=tuple(group))
        group.append(stream)
        return stream

    def end(self, upstream: Upstream, key: str | None, stream: Stream, now: float) -> None:
        """It has ended; the node learns how many ran when it began."""
        stream.ended = now
        group = self._open[upstream.node.id, key]
        group.remove(stream)
        if not group:
            del self._open[upstream.node.id, key]
        together = 1 + sum(_ran_with(stream, other) for other in stream.beside)
        stream.beside = ()
        if together > 1:
            upstream.learned(key, together)


def _ran_with(stream: Stream, other: Stream) -> bool:
    until = stream.ended if other.ended is None else other.ended
    return not other.paused and until is not None and until - stream.began >= LEAST
