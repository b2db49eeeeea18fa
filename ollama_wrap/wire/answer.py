"""Answer: the reply to one request on a node's connection, and the Source of its body.

Owns what has come of it and who waits for what. It must not know sockets or parsers:
its connection fills it.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from ollama_wrap.call import Header
from ollama_wrap.errors import UpstreamError
from ollama_wrap.reply import Sink
from ollama_wrap.wire.replies import Head

#: Bytes of a body that wait here while nobody takes them.
UNREAD = 256 * 1024


class Carrier(Protocol):
    """The connection, as its answer sees it."""

    loop: asyncio.AbstractEventLoop

    @property
    def unsent(self) -> int:
        """Bytes of the request that the node has not taken yet."""

    def read_on(self) -> None:
        """Read from the node again."""

    def hold_back(self) -> None:
        """Stop reading from the node."""

    def abandon(self, answer: "Answer") -> None:
        """The reply is not wanted any more."""

    def fail(self, error: UpstreamError) -> None:
        """The reply is broken, and the connection of no more use."""


class Answer(Struct, eq=False):
    """The reply to one request: first its head, then a Source of its body.

    `arrived` is set when the head is here, `begun` when the first byte of the
    body or its end is; both also when the reply fails, and then `error` says how.
    """

    _connection: Carrier | None
    #: the request was HEAD: there is no body, whatever the head says
    bare: bool
    #: the connection had served before
    reused: bool
    _loop: asyncio.AbstractEventLoop
    #: the head is here; the first byte of the body, or its end, is
    headed: bool = False
    started: bool = False
    complete: bool = False
    keep_alive: bool = False
    status: int = 0
    phrase: bytes = b""
    headers: list[Header] = []
    #: what it has in common with others, and what it has not
    head: Head | None = None
    date: bytes = b""
    digits: bytes = b""
    pieces: list[bytes] = []
    size: int = 0
    #: bytes of the reply so far, of its head too
    received: int = 0
    error: UpstreamError | None = None
    _sink: Sink | None = None
    #: called once, when what it waits for is here or the reply has failed
    _notice: Callable[[], None] | None = None
    _at_head: bool = False
    _arrived: "asyncio.Future[None] | None" = None
    _begun: "asyncio.Future[None] | None" = None
    _grown: "asyncio.Future[None] | None" = None

    # Only one of the two is waited for, so each is made when it is asked for.

    @property
    def arrived(self) -> "asyncio.Future[None]":
        """Done when the head is here, or the reply has failed."""
        if self._arrived is None:
            self._arrived = _future(self._loop, done=self.headed)
        return self._arrived

    @property
    def begun(self) -> "asyncio.Future[None]":
        """Done when the body's first byte or its end is here, or the reply has failed."""
        if self._begun is None:
            self._begun = _future(self._loop, done=self.started)
        return self._begun

    def takes(self, head: Head, date: bytes, digits: bytes) -> None:
        """Its head is here."""
        self.head, self.date, self.digits = head, date, digits
        self.status, self.phrase, self.keep_alive = head.status, head.phrase, head.keep_alive
        self.headers = headers = head.headers.copy()
        if date and head.dated >= 0:
            headers[head.dated] = (b"Date", date)
        if digits and head.sized >= 0:
            headers[head.sized] = (b"Content-Length", digits)
        self.headed = True
        if self._arrived is not None:
            wake(self._arrived)

    def take(self, piece: bytes) -> None:
        """A piece of the body is here."""
        self.pieces.append(piece)
        self.size += len(piece)

    def body_begins(self) -> None:
        """Wake who waits for the body."""
        self.started = True
        if self._begun is not None:
            wake(self._begun)

    def notice(self, call: Callable[[], None] | None, *, at_head: bool = False) -> None:
        """Call `call` instead of waking somebody, at the head or at the body's first byte."""
        self._notice, self._at_head = call, at_head
        if call is not None and self.headed:
            self.tell()

    def tell(self) -> None:
        """Call who is to be called, if it is time."""
        notice = self._notice
        if notice is not None and (self.started or (self._at_head and self.headed)):
            self._notice = None
            notice()

    @property
    def stale(self) -> bool:
        """A reused connection had died before: the request may be sent again, it did nothing."""
        return self.reused and self.error is not None and not self.received

    @property
    def unsent(self) -> int:
        """Bytes of the request that the node has not taken yet."""
        connection = self._connection
        return 0 if connection is None else connection.unsent

    async def peek(self, limit: int) -> bytes:
        """The body, which stays here; what is longer than `limit` bytes is not waited for."""
        while not self.complete and self.error is None and self.size < limit:
            self._grown = self._loop.create_future()
            await self._grown
        return b"".join(self.pieces)[:limit]

    # Source

    def start(self, sink: Sink) -> None:
        """See `reply.Source`."""
        self._sink = sink
        if self._connection is not None:
            self._connection.read_on()  # before the sink, which may pause again
        self.push()
        if self.complete or self.error is not None:
            self._sink = None  # they hold each other, and the request's body
            sink.end(self.error)

    def pause(self) -> None:
        """See `reply.Source`."""
        if self._connection is not None:
            self._connection.hold_back()

    def resume(self) -> None:
        """See `reply.Source`."""
        if self._connection is not None:
            self._connection.read_on()

    def close(self) -> None:
        """See `reply.Source`."""
        connection, self._connection = self._connection, None
        self._sink = None
        if connection is not None:
            connection.abandon(self)

    def fail(self, error: UpstreamError) -> None:
        """End it as broken, and its connection: the node is known to be gone."""
        if self._connection is not None:
            self._connection.fail(error)

    # from the connection

    def push(self) -> None:
        """Hand on the pieces that wait."""
        pieces = self.pieces
        if self._grown is not None:
            wake(self._grown)
        if not pieces:
            return
        if self._sink is not None:
            self.pieces = []
            self.size = 0
            self._sink.feed(pieces)
        elif self.size > UNREAD:
            self.pause()

    def settle(self, error: UpstreamError | None) -> None:
        """The reply is whole (None) or has failed."""
        self.error = error
        self.complete = error is None
        self._connection = None
        sink = self._sink
        self.headed = self.started = True
        if self._arrived is not None:
            wake(self._arrived)
        if self._begun is not None:
            wake(self._begun)
        if self._grown is not None:
            wake(self._grown)
        if sink is not None:
            self.push()
            self._sink = None  # as in `start`
            sink.end(error)
        notice, self._notice = self._notice, None
        if notice is not None:
            notice()


def _future(loop: asyncio.AbstractEventLoop, *, done: bool) -> asyncio.Future[None]:
    future: asyncio.Future[None] = loop.create_future()
    if done:
        future.set_result(None)
    return future


def wake(future: asyncio.Future[None]) -> None:
    """Set a future that may be set, or given up, already."""
    if not future.done():
        future.set_result(None)
