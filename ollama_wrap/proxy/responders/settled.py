"""The progress of a change, whose word of success waits until the change is known here.

A client that reads it asks for the new model at once; until the lists of its node have
been read again, nobody here knows that it is there. It must not know how lists are read.
"""

import asyncio
from collections.abc import Awaitable, Callable

from ollama_wrap import tasks
from ollama_wrap.errors import UpstreamError
from ollama_wrap.reply import Sink, Source

_SUCCESS = b'"success"'


class Settled:
    """The Source `source`, with `known` awaited before its word of success passes."""

    def __init__(self, source: Source, known: Callable[[], Awaitable[None]]) -> None:
        self._source = source
        self._known = known
        self._sink: Sink | None = None
        self._kept: list[bytes] = []
        self._ending: asyncio.Task[None] | None = None

    def start(self, sink: Sink) -> None:
        """See `reply.Source`."""
        self._sink = sink
        self._source.start(self)

    def pause(self) -> None:
        """See `reply.Source`."""
        self._source.pause()

    def resume(self) -> None:
        """See `reply.Source`."""
        self._source.resume()

    def close(self) -> None:
        """See `reply.Source`."""
        self._sink = None
        if self._ending is not None:
            self._ending.cancel()
        self._source.close()

    def feed(self, pieces: list[bytes]) -> None:
        """See `reply.Sink`."""
        first = (
            0
            if self._kept
            else next(
                (place for place, piece in enumerate(pieces) if _SUCCESS in piece), len(pieces)
            )
        )
        self._kept += pieces[first:]
        if self._sink is not None and first:
            self._sink.feed(pieces[:first])

    def end(self, error: UpstreamError | None) -> None:
        """See `reply.Sink`."""
        if self._kept and error is None:
            self._ending = tasks.start(self._settle(), "the end of a change")
        else:
            self._finish(error)

    async def _settle(self) -> None:
        await self._known()
        self._finish(None)

    def _finish(self, error: UpstreamError | None) -> None:
        sink, kept = self._sink, self._kept
        if sink is None:
            return
        if kept:
            sink.feed(kept)
        sink.end(error)
