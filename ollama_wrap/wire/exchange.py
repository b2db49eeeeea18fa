"""InboundExchange: one request of a client connection, and the writing of its answer.

Owns the body that has arrived and the framing of the reply. It knows its
connection and nothing of what answers.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from ollama_wrap.call import Header
from ollama_wrap.errors import StreamBroken
from ollama_wrap.wire.base import Exchange, Framing, Pace
from ollama_wrap.wire.head import Head

if TYPE_CHECKING:
    from ollama_wrap.wire.inbound import Inbound

# Members by other names: reading one from its Enum costs much, before Python 3.12.
_CHUNKED, _CLOSE = Framing.CHUNKED, Framing.CLOSE
#: Bytes of a request body that wait here unread before the client is held back.
UNREAD = 256 * 1024


class InboundExchange(Struct, eq=False, weakref=True):
    """See `wire.base.Exchange`; made by Inbound when a head is complete."""

    connection: "Inbound"
    head: Head
    notes: dict[object, object]
    ends: tuple[str, str]
    length: int
    complete: bool
    keep_alive: bool
    #: the client's buffer may be full of the answer before
    paused: bool
    #: of the body, not taken yet
    _parts: list[bytes]
    pace: Pace = Pace.BRIEF
    reading: bool = False
    started: bool = False
    over: bool = False
    framing: Framing = Framing.NONE
    ready: Callable[[Exchange], None] | None = None
    gone: Callable[[], object] | None = None
    writable: Callable[[], None] | None = None
    #: the client has been told to send its body
    agreed: bool = False
    _size: int = 0
    _head: bytes = b""
    _waiter: "asyncio.Future[None] | None" = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The connection's."""
        return self.connection.loop

    @property
    def method(self) -> str:
        """See `Exchange`; so are the next five."""
        return self.head.method

    @property
    def target(self) -> bytes:
        return self.head.target

    @property
    def headers(self) -> list[Header]:
        return self.head.headers

    @property
    def fields(self) -> Mapping[bytes, bytes]:
        return self.head.fields

    @property
    def sized(self) -> tuple[int, bytes] | None:
        return self.head.sized

    @property
    def http11(self) -> bool:
        return self.head.http11

    @property
    def expects(self) -> bool:
        """The client waits for `100 Continue` before it sends its body."""
        return self.head.expects and not self.agreed and self.length != 0

    @property
    def plain(self) -> bool:
        """See `Exchange.plain`."""
        return self.keep_alive and self.complete and self.head.http11

    @property
    def has_body(self) -> bool:
        """A body was announced, even an empty one."""
        return self.length != 0 or self.head.sized is not None

    # the body, from the connection

    def arrived(self, part: bytes, *, last: bool = False) -> None:
        """Bytes of the body; `b""` ends it."""
        if last or not part:
            self.complete = True
        if part and not self.over:
            self._parts.append(part)
            self._size += len(part)
            if self._size > UNREAD and not self.reading:
                self.connection.hold_back()
        if self._waiter is not None:
            self._wake()

    def lost(self) -> None:
        """The client is gone."""
        if self.over:
            return
        self.over = True
        self._wake()
        if self.gone is not None:
            self.gone()

    # the body, for the edge

    async def whole(self, limit: int) -> bytes | None:
        """See `Exchange.whole`."""
        if self.length > limit:
            return None
        self._agree()
        self.reading = True
        while not self.complete and self._size <= limit:
            await self._more()
        self.reading = False
        return self.taken() if self._size <= limit else None

    async def read(self) -> bytes:
        """See `Exchange.read`."""
        self._agree()
        while not self._parts:
            if self.complete:
                return b""
            await self._more()
        if self._size <= UNREAD:
            return self.taken()
        # What `whole` has gathered in vain is not copied into one.
        part = self._parts.pop(0)
        self._size -= len(part)
        return part

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        self._size = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _agree(self) -> None:
        """The body is wanted now: say so to a client that waits for it, as Go does."""
        if self.expects and not self.started and not self.over:
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.agreed = True

    async def _more(self) -> None:
        if self.over:
            msg = "the client has left"
            raise StreamBroken(msg)
        self.connection.read_on()
        self._waiter = self.loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # the answer

    def begin(self, status: int, phrase: bytes, headers: list[Header], framing: Framing) -> None:
        """See `Exchange.begin`."""
        self.started = True
        if framing is _CHUNKED and not self.head.http11:
            framing = _CLOSE
        self.framing = framing
        if framing is _CLOSE or not self.complete:
            self.keep_alive = False
        lines = [b"HTTP/1.%d %d %b\r\n" % (self.head.http11, status, phrase)]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if not self.head.http11:
            if self.keep_alive:
                lines.append(b"Connection: keep-alive\r\n")
        elif not self.keep_alive:
            lines.append(b"Connection: close\r\n")
        lines.append(b"Transfer-Encoding: chunked\r\n\r\n" if framing is _CHUNKED else b"\r\n")
        self._head = b"".join(lines)

    def begin_with(self, head: bytes, framing: Framing) -> None:
        """See `Exchange.begin_with`."""
        self.started, self.framing, self._head = True, framing, head

    def feed(self, pieces: list[bytes]) -> None:
        """See `Exchange.feed`."""
        if self.over:
            return
        head, self._head = self._head, b""
        if self.framing is _CHUNKED:
            if len(pieces) == 1:
                piece = pieces[0]
                data = b"%b%x\r\n%b\r\n" % (head, len(piece), piece)
            else:
                data = head + b"".join([b"%x\r\n%b\r\n" % (len(p), p) for p in pieces])
        elif head or len(pieces) > 1:
            data = b"".join((head, *pieces))
        else:
            data = pieces[0]
        connection = self.connection
        connection.outbox.write(connection.transport, data)

    def flush(self) -> None:
        """See `Exchange.flush`."""
        if self._head and not self.over:
            head, self._head = self._head, b""
            self.connection.write(head)

    def end(self) -> None:
        """See `Exchange.end`."""
        if self.over:
            return
        self.over = True
        last = b"0\r\n\r\n" if self.framing is _CHUNKED else b""
        if self._head or last:
            self.connection.write(self._head + last)
        if self.keep_alive:
            self.connection.on_response_complete()
        elif self.complete:
            self.connection.hang_up()
        else:
            self.connection.linger()

    def cut(self) -> None:
        """See `Exchange.cut`."""
        if self.over:
            return
        self.flush()
        self.over = True
        if self.framing is _CLOSE:
            self.connection.reset()
        else:
            self.connection.hang_up()
