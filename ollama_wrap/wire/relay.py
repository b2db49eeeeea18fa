"""Node to client, chunk by chunk, without a task switch a token.

A Relay is the Sink of a reply's body: what the node's connection reads is
written to the client in the same call. Only the end wakes the request's task.
"""

import asyncio
from collections.abc import Callable

from ollama_wrap.errors import UpstreamError
from ollama_wrap.reply import Source
from ollama_wrap.wire.base import Exchange


class Relay:
    """Joins one body to one exchange; `await relay.done` is the body's end or its fault."""

    __slots__ = ("_exchange", "_source", "_watch", "done")

    def __init__(
        self, exchange: Exchange, source: Source, watch: Callable[[list[bytes]], None]
    ) -> None:
        self._exchange = exchange
        self._source = source
        self._watch = watch
        self.done: asyncio.Future[UpstreamError | None] = exchange.loop.create_future()

    def start(self) -> None:
        """Begin; the head goes out even if no byte of the body is here yet."""
        self._exchange.writable = self._source.resume
        self._source.start(self)
        if not self.done.done():
            self._exchange.flush()

    def feed(self, pieces: list[bytes]) -> None:
        """See `reply.Sink`."""
        self._watch(pieces)
        self._exchange.feed(pieces)
        if self._exchange.paused:
            self._source.pause()

    def end(self, error: UpstreamError | None) -> None:
        """See `reply.Sink`."""
        self._exchange.writable = None
        if not self.done.done():
            self.done.set_result(error)
