"""The nodes' side: one connection to a node, one request on it at a time.

Connection writes a request and parses what comes; each reply is an Answer,
which is the Source that the relay reads from. Bytes of a body are handed on as
they came, one piece a chunk: chunks are never joined, and one that comes in two
segments waits for its end, for clients that take a chunk for a line.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from ollama_wrap.errors import BadReply, StreamBroken, UpstreamError
from ollama_wrap.wire.answer import Answer, wake

#: A reply's head may be this long, and be preceded by so many interim replies.
MAX_HEAD = 64 * 1024
MAX_INTERIM = 16
#: A chunk longer than this is handed on in parts. Stock writes 4 KiB at a time.
TORN = 64 * 1024

_BODILESS = (204, 304)


class Connection(asyncio.Protocol):
    """One connection; `free` is called when it can take the next request."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, free: Callable[["Connection"], None]
    ) -> None:
        self.loop = loop
        self.transport = cast("asyncio.Transport", None)
        self.parser = httptools.HttpResponseParser(self)
        self.answer: Answer | None = None
        self.closed = False
        self.idle_since = 0.0
        self.requests = 0
        #: the request has been sent to its end
        self.whole = True
        #: set while the node does not take our bytes
        self.blocked: asyncio.Future[None] | None = None
        self._free = free
        self._paused = False
        self._interim = 0
        self._head_size = 0
        #: bytes of a chunk are coming; the body's last piece is part of one; what waits of it
        self._in_chunk = self._open = False
        self._held = b""

    # one request

    def send(self, data: bytes, *, bare: bool, whole: bool) -> Answer:
        """Write the head, and the body as far as it is here.

        `bare`: no body will come back (HEAD). `whole`: nothing follows `data`;
        else `write` sends the rest and `sent` ends it.
        """
        self.answer = answer = Answer(self, bare=bare, reused=self.requests > 0)
        self.requests += 1
        self.whole = whole
        self._interim = self._head_size = 0
        self._in_chunk = self._open = False
        self._held = b""
        if self.closed:
            self._settle(StreamBroken("the node ended the connection"))
        else:
            self.transport.write(data)
        return answer

    def write(self, data: bytes) -> None:
        """More of the body, framed by the caller."""
        if not self.closed:
            self.transport.write(data)

    def sent(self) -> None:
        """The request is whole."""
        self.whole = True
        if self.answer is None and not self.closed:
            self._release()

    async def drained(self) -> None:
        """Come back when the node takes bytes again, or the connection has ended."""
        if self.blocked is not None and not self.closed:
            await self.blocked

    # transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.resume_writing()
        answer = self.answer
        if answer is None:
            return
        if exc is None and answer.headed and self._ends_with_connection(answer):
            self._settle(None)
        else:
            self._settle(StreamBroken("the node ended the connection"))

    def pause_writing(self) -> None:
        self.blocked = self.loop.create_future()

    def resume_writing(self) -> None:
        blocked, self.blocked = self.blocked, None
        if blocked is not None:
            wake(blocked)

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None:
            self.drop()  # nobody asked
            return
        answer.received += len(data)
        fault: BadReply | None = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            fault = BadReply("the node switched protocols")
        except httptools.HttpParserError as error:
            fault = BadReply(f"the node's reply is not HTTP: {error}")
        if not answer.headed and answer.received > MAX_HEAD:
            fault = fault or BadReply("the head of the node's reply is too long")
        if answer.complete:
            self._finish(answer, clean=fault is None)
            return
        if self._open and answer.pieces and len(answer.pieces[-1]) < TORN:
            self._held = answer.pieces.pop()
            answer.size -= len(self._held)
        if answer.pieces:
            answer.body_begins()
            answer.push()
        if fault is not None:
            self.fail(fault)
        else:
            answer.tell()

    # parser

    def on_message_begin(self) -> None:
        if self.answer is not None and self.answer.complete:
            # A second reply that nobody asked for: the connection cannot be trusted any more.
            self.answer.keep_alive = False

    def on_status(self, status: bytes) -> None:
        # In two parts where a segment ends in it.
        if self.answer is not None and not self.answer.complete:
            self.answer.phrase += status

    def on_header(self, name: bytes, value: bytes) -> None:
        answer = self.answer
        if answer is None or answer.complete or answer.headed:
            return  # a trailer, or bytes behind the reply
        self._head_size += len(name) + len(value)
        if self._head_size > MAX_HEAD:
            msg = "the head of the node's reply is too long"
            raise BadReply(msg)
        answer.headers.append((name, value))

    def on_headers_complete(self) -> None:
        answer = self.answer
        if answer is None or answer.complete:
            return
        status = self.parser.get_status_code()
        if status < 200:
            self._interim += 1
            if status == 101 or self._interim > MAX_INTERIM:
                msg = "the node sent interim replies without end"
                raise BadReply(msg)
            answer.headers, answer.phrase = [], b""
            return
        answer.status = status
        answer.keep_alive = self.parser.should_keep_alive()
        answer.head_is_here()
        if answer.bare:
            self._end_of_body(answer)

    def on_body(self, body: bytes) -> None:
        answer = self.answer
        if answer is None or answer.complete:
            return
        if self._held:
            body, self._held = self._held + body, b""
        answer.pieces.append(body)
        answer.size += len(body)
        self._open = self._in_chunk

    def on_chunk_header(self) -> None:
        self._in_chunk = True

    def on_chunk_complete(self) -> None:
        if self._held and self.answer is not None:
            # Only its line end was missing.
            self.answer.pieces.append(self._held)
            self.answer.size += len(self._held)
            self._held = b""
        self._in_chunk = self._open = False

    def on_message_complete(self) -> None:
        answer = self.answer
        if answer is not None and answer.status >= 200 and not answer.complete:
            self._end_of_body(answer)

    # ends

    def _end_of_body(self, answer: Answer) -> None:
        answer.complete = True
        if answer.bare:
            # httptools goes on to wait for the body that a HEAD's reply announces.
            self.parser = httptools.HttpResponseParser(self)

    def _finish(self, answer: Answer, *, clean: bool) -> None:
        self.answer = None
        self.read_on()
        if clean and answer.keep_alive:
            if self.whole:
                self._release()
        elif self.whole:
            self.transport.close()
        else:
            self.drop()  # nobody takes the rest of the request any more
        answer.settle(None)

    def fail(self, error: UpstreamError) -> None:
        """The reply is broken, and the connection of no more use."""
        self.drop()
        self._settle(error)

    def _settle(self, error: UpstreamError | None) -> None:
        answer, self.answer = self.answer, None
        if answer is not None:
            if self._held:
                answer.pieces.append(self._held)
            answer.push()
            answer.settle(error)

    def _release(self) -> None:
        self.idle_since = self.loop.time()
        self._free(self)

    def abandon(self, answer: Answer) -> None:
        """The reply is not wanted any more: the node sees the connection end."""
        if self.answer is answer:
            self.answer = None
            self.drop()

    def drop(self) -> None:
        """End the connection now."""
        self.closed = True
        self.transport.abort()

    def _ends_with_connection(self, answer: Answer) -> bool:
        if answer.bare or answer.status in _BODILESS:
            return False
        return not any(
            name.lower() in {b"content-length", b"transfer-encoding"} for name, _ in answer.headers
        )

    # flow

    def hold_back(self) -> None:
        """Stop reading from the node."""
        if not self._paused and not self.closed:
            self._paused = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Read from the node again."""
        if self._paused and not self.closed:
            self._paused = False
            self.transport.resume_reading()
