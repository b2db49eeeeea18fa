"""InboundExchange: one request of a client connection, and the writing of its answer.

Owns the body that has arrived and the framing of the reply. It knows its
connection and nothing of what answers.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ollama_wrap.call import Header
from ollama_wrap.errors import StreamBroken
from ollama_wrap.wire.base import Framing

if TYPE_CHECKING:
    from ollama_wrap.wire.inbound import Inbound

#: Bytes of a request body that wait here unread before the client is held back.
UNREAD = 256 * 1024

_RESET = struct.pack("ii", 1, 0)


class InboundExchange:
    """See `wire.base.Exchange`; made by Inbound when a head is complete."""

    __slots__ = (
        "_head",
        "_parts",
        "_size",
        "_waiter",
        "_waiting",
        "complete",
        "connection",
        "fields",
        "framing",
        "gone",
        "headers",
        "http11",
        "keep_alive",
        "length",
        "loop",
        "method",
        "over",
        "paused",
        "reading",
        "stalled",
        "started",
        "target",
        "writable",
    )

    def __init__(
        self,
        connection: "Inbound",
        method: str,
        target: bytes,
        headers: list[Header],
        fields: Mapping[bytes, bytes],
    ) -> None:
        self.connection = connection
        self.loop = connection.loop
        self.method = method
        self.target = target
        self.headers = headers
        self.fields = fields
        self.http11 = True
        self.keep_alive = True
        #: of the body as announced; -1 where it is chunked
        self.length = 0
        self.complete = self.reading = self.started = self.over = self.paused = False
        self.stalled = 0.0
        self._waiting = 0
        self.framing = Framing.NONE
        self.gone: Callable[[], object] | None = None
        self.writable: Callable[[], None] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._head = b""
        self._waiter: asyncio.Future[None] | None = None

    @property
    def has_body(self) -> bool:
        """A body was announced, even an empty one."""
        return self.length != 0 or b"content-length" in self.fields

    @property
    def client(self) -> str:
        """Address of the peer."""
        peer = self.connection.client
        return peer[0] if peer else ""

    @property
    def listener(self) -> str:
        """Address that the connection came in on."""
        server = self.connection.server
        return server[0] if server else ""

    # the body, from the connection

    def arrived(self, part: bytes) -> None:
        """Bytes of the body; `b""` ends it."""
        if not part:
            self.complete = True
        elif not self.over:
            self._parts.append(part)
            self._size += len(part)
            if self._size > UNREAD and not self.reading:
                self.connection.flow.pause_reading()
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
        self.reading = True
        while not self.complete and self._size <= limit:
            await self._more()
        self.reading = False
        if self._size > limit:
            return None
        parts, self._parts = self._parts, []
        self._size = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self) -> bytes:
        """See `Exchange.read`."""
        while not self._parts:
            if self.complete:
                return b""
            await self._more()
        parts, self._parts = self._parts, []
        self._size = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _more(self) -> None:
        if self.over:
            msg = "the client has left"
            raise StreamBroken(msg)
        if self.started is False and not self._size and self._continue_wanted():
            self.connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.connection.flow.resume_reading()
        self._waiter = self.connection.loop.create_future()
        await self._waiter

    def _continue_wanted(self) -> bool:
        if self.http11 and b"expect" in self.fields:
            self.fields = {k: v for k, v in self.fields.items() if k != b"expect"}
            return True
        return False

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # the answer

    def begin(self, status: int, phrase: bytes, headers: list[Header], framing: Framing) -> None:
        """See `Exchange.begin`."""
        self.started = True
        if framing is Framing.CHUNKED and not self.http11:
            framing = Framing.CLOSE
        self.framing = framing
        if framing is Framing.CLOSE or not self.complete or self.connection.extra:
            self.keep_alive = False
        lines = [b"HTTP/1.%d %d %b\r\n" % (self.http11, status, phrase)]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        if not self.http11:
            if self.keep_alive:
                lines.append(b"Connection: keep-alive\r\n")
        elif not self.keep_alive:
            lines.append(b"Connection: close\r\n")
        lines.append(
            b"Transfer-Encoding: chunked\r\n\r\n" if framing is Framing.CHUNKED else b"\r\n"
        )
        self._head = b"".join(lines)

    def feed(self, pieces: list[bytes]) -> None:
        """See `Exchange.feed`."""
        if self.over:
            return
        head, self._head = self._head, b""
        if self.framing is Framing.CHUNKED:
            if len(pieces) == 1:
                piece = pieces[0]
                data = b"%b%x\r\n%b\r\n" % (head, len(piece), piece)
            else:
                data = head + b"".join([b"%x\r\n%b\r\n" % (len(p), p) for p in pieces])
        elif head or len(pieces) > 1:
            data = b"".join((head, *pieces))
        else:
            data = pieces[0]
        self.connection.transport.write(data)

    def flush(self) -> None:
        """See `Exchange.flush`."""
        if self._head and not self.over:
            head, self._head = self._head, b""
            self.connection.transport.write(head)

    def end(self) -> None:
        """See `Exchange.end`."""
        if self.over:
            return
        self.over = True
        last = b"0\r\n\r\n" if self.framing is Framing.CHUNKED else b""
        if self._head or last:
            self.connection.transport.write(self._head + last)
        if self.keep_alive:
            self.connection.on_response_complete()
        elif self.complete:
            self.connection.exchange = None
            self.connection.transport.close()
        else:
            self.connection.linger()

    def cut(self) -> None:
        """See `Exchange.cut`."""
        if self.over:
            return
        self.flush()
        self.over = True
        self.connection.exchange = None
        if self.framing is Framing.CLOSE:
            self.reset()
        else:
            self.connection.transport.close()

    def stall(self, now: float) -> None:
        """The client cannot take more; its buffer is full."""
        self.paused = True
        self.stalled = now
        self._waiting = self.connection.transport.get_write_buffer_size()

    def progressed(self, now: float) -> float:
        """When a paused client last took anything."""
        waiting = self.connection.transport.get_write_buffer_size()
        if waiting < self._waiting:
            self.stalled, self._waiting = now, waiting
        return self.stalled

    def reset(self) -> None:
        """End the connection with a reset: what is framed by the close must not look whole."""
        transport = self.connection.transport
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
