"""The usual case without a task: first choice free, a connection to it idle, nothing odd.

Such a call is begun in the callback that took its last byte, and its answer is
passed on in the callbacks that bring it: no task, no switch. Whatever is not as
usual before the first byte is handed to the line that every other call walks
(`edge.go_on`), the attempt that is under way with it; nothing is decided here.
"""

from collections.abc import Callable
from typing import Protocol

from ollama_wrap.dialects import Ending
from ollama_wrap.errors import UpstreamError
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.running import Open
from ollama_wrap.wire.base import Exchange


class Line(Protocol):
    """What the edge does for it."""

    def go_on(self, exchange: Exchange, one: Open) -> None:
        """Have the call answered by the usual line; its attempt is in `call.begun`."""

    def begin(self, exchange: Exchange, one: Open) -> None:
        """Write the head of `one.reply`."""

    def finish(self, exchange: Exchange, one: Open, error: UpstreamError | None) -> Ending | None:
        """Write the end of the answer, whole or broken."""

    def ended_early(self, exchange: Exchange, one: Open) -> None:
        """The client left, or an operator ended the call."""

    def failed(self, exchange: Exchange, one: Open, error: Exception) -> None:
        """A fault of ours: said, and answered if that is still possible."""

    def close(self, one: Open, ending: Ending | None) -> None:
        """The call has ended."""


class Express:
    """One call on its way; a Sink of its answer's body."""

    __slots__ = ("_attempt", "_closed", "_exchange", "_feed", "_line", "_one")

    def __init__(self, line: Line, exchange: Exchange, one: Open, attempt: Attempt) -> None:
        self._line = line
        self._exchange = exchange
        self._one = one
        self._attempt = attempt
        self._feed: Callable[[list[bytes]], None] = one.tap.feed
        self._closed = False
        exchange.gone = one.cancel = self.leave
        one.look = self._check
        attempt.notice(self._begun)

    # before the first byte

    def _begun(self) -> None:
        """The first byte is here, or none will come."""
        self._one.look = None
        if self._closed:
            return
        try:
            reply = self._attempt.usual()
            if reply is None:
                self._hand_over()
                return
            self._one.reply = reply
            self._line.begin(self._exchange, self._one)
            if (pieces := self._attempt.whole()) is not None:
                self._feed(pieces)
                self._exchange.feed(pieces)
                self.end(None)
                return
            self._exchange.writable = self._attempt.resume
            self._attempt.start(self)
            if not self._closed:
                self._exchange.flush()
        except Exception as error:  # noqa: BLE001  the node's connection must not end for it
            self._line.failed(self._exchange, self._one, error)
            self._close(None)

    def _check(self) -> None:
        # The node went down: whether the call may move is decided on the usual line.
        if self._attempt.upstream.state is NodeState.DOWN and not self._closed:
            self._one.look = None
            self._attempt.notice(None)
            self._hand_over()

    def _hand_over(self) -> None:
        self._closed = True
        self._one.call.begun = self._attempt
        self._line.go_on(self._exchange, self._one)

    # Sink

    def feed(self, pieces: list[bytes]) -> None:
        """See `reply.Sink`."""
        exchange = self._exchange
        self._feed(pieces)
        exchange.feed(pieces)
        if exchange.paused:
            self._attempt.pause()

    def end(self, error: UpstreamError | None) -> None:
        """See `reply.Sink`."""
        if self._closed:
            return
        ending: Ending | None = None
        self._exchange.writable = None
        try:
            ending = self._line.finish(self._exchange, self._one, error)
        except Exception as fault:  # noqa: BLE001  as above
            self._line.failed(self._exchange, self._one, fault)
        self._close(ending)

    # ends

    def leave(self) -> None:
        """The client is gone, or an operator ends the call."""
        if self._closed:
            return
        self._one.look = None
        self._attempt.notice(None)
        self._line.ended_early(self._exchange, self._one)
        self._close(None)

    def _close(self, ending: Ending | None) -> None:
        if not self._closed:
            self._closed = True
            # They hold each other: none of them would be freed before the next collection.
            self._exchange.gone = self._one.cancel = None
            if self._one.reply is None:
                self._attempt.close()
            self._line.close(self._one, ending)
