"""The nodes' side: one connection to a node, one request on it at a time.

Connection writes a request and frames what comes; each reply is an Answer, which
is the Source that the relay reads from. Bytes of a body are handed on as they
came: nothing of them is parsed.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import cast

from ollama_wrap.errors import BadReply, StreamBroken, UpstreamError
from ollama_wrap.wire import outbox
from ollama_wrap.wire.answer import Answer, wake
from ollama_wrap.wire.pieces import Pieces
from ollama_wrap.wire.replies import MAX_HEAD, Head, Replies

#: A reply may be preceded by so many interim replies.
MAX_INTERIM = 16
_START = b"HTTP/"

#: What of a reply is coming: its head, a body with a length, in chunks, to the connection's end.
_HEAD, _SIZED, _CHUNKED, _OPEN = range(4)
#: Stays empty; a deque of its own is more than a connection weighs without one.
_NONE: deque[bytes] = deque()


class Connection(asyncio.Protocol):
    """One connection; `free` is called when it can take the next request.

    `replies` reads the heads; connections to one node share it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        free: Callable[["Connection"], None],
        replies: Replies | None = None,
    ) -> None:
        self.loop = loop
        self.transport = cast("asyncio.Transport", None)
        self.answer: Answer | None = None
        self.closed = False
        self.idle_since = 0.0
        self.requests = 0
        #: the request has been sent to its end
        self.whole = True
        #: set while the node does not take our bytes
        self.blocked: asyncio.Future[None] | None = None
        self._free = free
        self._outbox = outbox.of(loop)
        self._replies = Replies() if replies is None else replies
        self._paused = False
        self._interim = 0
        self._coming = _HEAD
        #: the beginning of a head
        self._held = b""
        #: of a body with a length: bytes still to come
        self._left = 0
        self._pieces: Pieces | None = None
        #: parts of a body that wait for their turn
        self._later: deque[bytes] = _NONE

    # one request

    def send(self, data: bytes, *, bare: bool, whole: bool) -> Answer:
        """Write the head, and the body as far as it is here.

        `bare`: no body will come back (HEAD). `whole`: nothing follows `data`;
        else `write` sends the rest and `sent` ends it.
        """
        self.answer = answer = Answer(self, bare, self.requests > 0, self.loop)
        self.requests += 1
        self.whole = whole
        self._interim = 0
        self._coming = _HEAD
        self._held = b""
        if self.closed:
            self._settle(StreamBroken("the node ended the connection"))
        else:
            self._outbox.write(self.transport, data)
        return answer

    def write(self, data: bytes) -> None:
        """More of the body, framed by the caller, who waits until it is `drained`."""
        if not self.closed:
            self._outbox.flush()
            self.transport.write(data)

    def write_parts(self, parts: Iterable[bytes]) -> None:
        """All of the body that has still to be sent; others have their turn between two parts."""
        self._later = deque(parts)
        self._write_next()

    def _write_next(self) -> None:
        later = self._later
        if self.closed or self.answer is None:
            later.clear()  # nobody takes it any more
        if not later or self.blocked is not None:
            return
        self.write(later.popleft())
        if not later:
            self.sent()
        elif self.blocked is None:
            self.loop.call_soon(self._write_next)

    @property
    def unsent(self) -> int:
        """Bytes written that the node has not taken yet."""
        return self.transport.get_write_buffer_size() + sum(map(len, self._later))

    def sent(self) -> None:
        """The request is whole."""
        self.whole = True
        if self.answer is None and not self.closed:
            self._free(self)

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
        if exc is None and self._coming == _OPEN:
            self._settle(None)
        else:
            self._settle(StreamBroken("the node ended the connection"))

    def pause_writing(self) -> None:
        self.blocked = self.loop.create_future()

    def resume_writing(self) -> None:
        blocked, self.blocked = self.blocked, None
        if blocked is not None:
            wake(blocked)
        if self._later:
            self._write_next()

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None:
            self.drop()  # nobody asked
            return
        answer.received += len(data)
        fault: BadReply | None = None
        try:
            if self._coming == _HEAD:
                data = self._take_head(answer, data)
            if data:
                self._take_body(answer, data)
        except BadReply as error:
            fault = error
        if answer.complete:
            self._finish(answer)
            return
        if answer.pieces:
            answer.body_begins()
            answer.push()
        if fault is not None:
            self.fail(fault)
        else:
            answer.tell()

    def _take_head(self, answer: Answer, data: bytes) -> bytes:
        """Returns what there is of the body."""
        if self._held:
            data, self._held = self._held + data, b""
        replies = self._replies
        if (rest := replies.again(data)) is not None:
            return self._begin(answer, replies.last, rest)
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end == 3 or end > MAX_HEAD:
                if len(data) > MAX_HEAD:
                    raise BadReply("the head of the node's reply is too long")
                if not data.startswith(_START[: len(data)]) or b"\n\n" in data:
                    raise BadReply("the node's reply is not HTTP")
                self._held = data
                return b""
            head, data = replies.read(data[:end]), data[end:]
            if head.status >= 200:
                break
            self._interim += 1
            if head.status == 101 or self._interim > MAX_INTERIM:
                raise BadReply("the node sent interim replies without end")
        return self._begin(answer, head, data)

    def _begin(self, answer: Answer, head: Head, data: bytes) -> bytes:
        """The head is here, and `data` of what follows."""
        replies = self._replies
        answer.takes(head, replies.date, replies.digits)
        length = int(replies.digits) if head.length is None else head.length
        if answer.bare or length == 0:
            self._whole(answer, data)
            return b""
        if length == len(data):
            # All of it came with the head.
            answer.take(data)
            answer.complete = True
            return b""
        if head.chunked:
            self._coming, self._pieces = _CHUNKED, Pieces()
        elif length == -1:
            self._coming = _OPEN
        else:
            self._coming, self._left = _SIZED, length
        return data

    def _take_body(self, answer: Answer, data: bytes) -> None:
        if self._coming == _SIZED:
            left = self._left - len(data)
            answer.take(data if left >= 0 else data[:left])
            self._left = left
            if left <= 0:
                self._whole(answer, data[left:] if left else b"")
        elif self._pieces is not None and self._coming == _CHUNKED:
            before = len(answer.pieces)
            try:
                rest = self._pieces.feed(data, answer.pieces)
            finally:
                answer.size += sum(map(len, answer.pieces[before:]))
            if rest is not None:
                self._whole(answer, rest)
        else:
            answer.take(data)

    # ends

    def _whole(self, answer: Answer, rest: bytes) -> None:
        answer.complete = True
        if rest:
            # A second reply that nobody asked for: the connection cannot be trusted any more.
            answer.keep_alive = False

    def _finish(self, answer: Answer) -> None:
        self.answer = None
        if self._paused:
            self.read_on()
        if answer.keep_alive:
            if self.whole:
                self._free(self)
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
            if self._pieces is not None and (rest := self._pieces.rest()):
                answer.take(rest)
            answer.push()
            answer.settle(error)

    def abandon(self, answer: Answer) -> None:
        """The reply is not wanted any more: the node sees the connection end."""
        if self.answer is answer:
            self.answer = None
            self.drop()

    def drop(self) -> None:
        """End the connection now."""
        self.closed = True
        self.transport.abort()

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
