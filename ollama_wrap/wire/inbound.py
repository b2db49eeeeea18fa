"""The clients' side: one connection, its requests one after the other.

A subclass of uvicorn's httptools protocol, because that one cannot be
transparent: it loses the raw target and the body of `Upgrade: h2c`, merges
trailers into the headers, chunks to HTTP/1.0 clients, sends `100 Continue` too
early, and swallows the rest of an upload after an early reply. Each request
becomes an InboundExchange and is offered to `take`; what that does not take
goes uvicorn's usual way to the ASGI application.

A connection walks HEAD → BODY or CHUNKED → ANSWER → HEAD, and ends in DROP
after an early reply. While an answer is pending, the bytes of a next request
wait unread.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ollama_wrap.wire import head as heads
from ollama_wrap.wire import outbox
from ollama_wrap.wire.base import Exchange, Pace
from ollama_wrap.wire.chunks import Chunks
from ollama_wrap.wire.exchange import InboundExchange
from ollama_wrap.wire.guard import ANSWER, BODY, CHUNKED, DROP, HEAD, Guard, host_of
from ollama_wrap.wire.known import Known

Take = Callable[[Exchange], bool]

#: Bytes of a next request kept while an answer is pending.
PIPELINED = 64 * 1024
#: What is dropped after an early reply before the connection closes, as Go's server does.
DROPPED = 256 * 1024
#: Seconds that a client which sends no more is given for an answer that should come soon.
GRACE = 0.1

_BLANK = (b"\r", b"\n")
_RESET = struct.pack("ii", 1, 0)


class Inbound(HttpToolsProtocol):
    """One client connection; made by uvicorn's server for each it accepts."""

    take: Take
    guard: Guard

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        del self.pipeline, self.parser  # not needed, and a KiB of each connection
        self.outbox = outbox.of(self.loop)
        self.reader = heads.Reader(self.guard.heads)
        self.chunks: Chunks | None = None
        self.exchange: InboundExchange | None = None
        self.address = self.listener = ""
        self.ends = ("", "")
        self.stage = HEAD
        #: bytes that came before their turn: a head that has not ended, a next request
        self.held = b""
        #: of these, bytes that are known not to end a head
        self.scanned = 0
        #: when the present stage began, or the client last did something in it
        self.since = self.moved = self.loop.time()
        #: of a body: bytes still to come, bytes in this window, seconds of it and of all
        self.left = self.got = 0
        self.window = self.taking = 0.0
        self.unsent = self.dropped = 0
        self.served = self.finished = False

    # transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address, self.listener = self.ends = host_of(self.client), host_of(self.server)
        transport.set_write_buffer_limits(*self.guard.marks)
        if (fault := self.guard.admit(self)) is not None:
            self.refuse(fault)

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.forget(self)
        exchange = self._clear()
        super().connection_lost(exc)
        if exchange is not None:
            exchange.lost()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: it has left, or it still reads its answer (`nc -N`)."""
        exchange = self.exchange
        if self.stage == ANSWER and (exchange is None or exchange.pace is Pace.BRIEF):
            self.finished = True
            self.loop.call_later(GRACE, self._give_up)
            return True
        if exchange is not None:
            exchange.lost()
        return False

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            if self.exchange is not None:
                self.exchange.lost()
            self.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.moved = self.loop.time()
        if self.exchange is not None:
            self.exchange.paused = True

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.exchange is not None:
            self.exchange.paused = False
            if self.exchange.writable is not None:
                self.exchange.writable()

    def shutdown(self) -> None:
        """End when the present answer has; called by the server when it stops."""
        if self.exchange is not None:
            self.exchange.keep_alive = False
        else:
            self.outbox.flush()
            super().shutdown()

    def write(self, data: bytes) -> None:
        """Bytes of an answer."""
        self.outbox.write(self.transport, data)

    def close(self) -> None:
        """Close when everything is sent."""
        self.outbox.flush()
        self.transport.close()

    def hold_back(self) -> None:
        """Stop reading."""
        if not self.flow.read_paused:
            self.flow.pause_reading()
            self.guard.watch(self)

    def read_on(self) -> None:
        """Read again."""
        if self.flow.read_paused:
            self.flow.resume_reading()
            self.guard.unwatch(self)

    # bytes in

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._receive(data)
        exchange = self.exchange
        if exchange is not None and (ready := exchange.ready) is not None:
            exchange.ready = None
            ready(exchange)

    def _receive(self, data: bytes) -> None:
        seen = 0
        if self.held:
            seen, self.scanned = self.scanned, 0
            data, self.held = self.held + data, b""
        while data and not self.transport.is_closing():
            stage = self.stage
            if stage == HEAD:
                data = self._take_head(data, seen)
                seen = 0
            elif stage == BODY:
                data = self._take_body(data)
            elif stage == CHUNKED:
                data = self._take_chunks(data)
            elif stage == ANSWER:
                self.held = data
                if len(data) > PIPELINED:
                    self.hold_back()
                return
            else:
                self.dropped += len(data)
                if self.dropped > DROPPED:
                    self.close()
                return

    def _take_head(self, data: bytes, seen: int) -> bytes:
        if not seen and (rest := self.reader.again(data)) is not None:
            return self._open(rest)
        if data[:1] in _BLANK:
            self.refuse(heads.Fault(400))  # as stock: no empty line before a request
            return b""
        sizes = self.guard.limits.sizes
        end = data.find(b"\r\n\r\n", max(0, seen - 3)) + 4
        if end == 3:
            if not self.left:
                self.left, self.since = 1, self.loop.time()  # the head's first byte is here
            if (fault := heads.unfinished(data, seen, sizes)) is not None:
                self.refuse(fault)
            else:
                self.held, self.scanned = data, len(data)
            return b""
        self.left = 0
        head, rest = (data, b"") if end == len(data) else (data[:end], data[end:])
        if (fault := self.reader.read(head, sizes)) is not None:
            self.refuse(fault)
            return b""
        return self._open(rest)

    def _open(self, rest: bytes) -> bytes:
        """A head is here, and `rest` of what follows; returns what of it was not taken."""
        guard, length, head = self.guard, self.reader.length, self.reader.head
        if guard.open >= guard.limits.streams:
            self.refuse(heads.Fault(503, "too many requests at a time"))
            return b""
        self.since = self.loop.time()
        guard.open += 1
        alive = head.alive and not guard.strain.brief
        # Most bodies come whole with their heads.
        parts = [rest] if length and length == len(rest) else []
        exchange = self.exchange = InboundExchange(
            self, head, head.notes, self.ends, length, bool(parts) or not length, alive,
            self.flow.write_paused, parts,
        )  # fmt: skip
        self._expect(0 if parts else length)
        if self.take(exchange):
            return b"" if parts else rest
        self._clear()
        self._expect(length)
        self._to_application(head)
        return rest

    def _expect(self, length: int) -> None:
        """So many bytes of a body are to come; -1: in chunks."""
        self.stage = BODY if length > 0 else CHUNKED if length else ANSWER
        if length:
            self.got, self.window, self.taking = 0, 0.0, 0.0
            self.left, self.chunks = max(0, length), Chunks() if length < 0 else None

    def _take_body(self, data: bytes) -> bytes:
        if len(data) == self.left and self.exchange is not None:
            self.left, self.stage = 0, ANSWER
            self.exchange.arrived(data, last=True)
            return b""
        part, rest = data[: self.left], data[self.left :]
        self.left -= len(part)
        self._arrived(part)
        if not self.left:
            self._ended()
        return rest

    def _take_chunks(self, data: bytes) -> bytes:
        if self.chunks is None:
            return b""
        try:
            part, rest = self.chunks.feed(data)
        except ValueError:
            self.refuse(heads.Fault(400))
            return b""
        self._arrived(part)
        if rest is None:
            return b""
        self.chunks = None
        self._ended()
        return rest

    def _arrived(self, part: bytes) -> None:
        self.since = self.loop.time()
        self.got += len(part)
        if self.exchange is not None:
            if part:
                self.exchange.arrived(part)
        elif self.cycle.response_complete:
            self.dropped += len(part)
            if self.dropped > DROPPED:
                self.linger()
        else:
            self.on_body(part)

    def _ended(self) -> None:
        """The body is whole."""
        self.stage = ANSWER
        if self.exchange is not None:
            self.exchange.arrived(b"")
        elif self.cycle.response_complete:
            self._next()
        else:
            self.on_message_complete()

    # answers

    def _to_application(self, head: heads.Head) -> None:
        """A path of our own: uvicorn's usual way, which writes without us."""
        self.outbox.flush()
        known = Known(head)
        self.parser = cast("httptools.HttpRequestParser", known)
        self.dropped = 0
        self.on_message_begin()
        self.url, self.headers[:] = known.url, known.headers
        self.expect_100_continue = b"expect" in head.fields
        self.on_headers_complete()
        # Whether a body that was waited for, and not asked for, still comes, nobody can tell.
        alive = head.alive and not self.expect_100_continue
        self.cycle.keep_alive = alive and head.http11 and not self.guard.strain.brief
        if self.stage == ANSWER:
            self.on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is complete, ours or an application's."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.stage == ANSWER:
            self._next()
        else:
            self.read_on()  # an application did not want its body; a little of it is dropped

    def _next(self) -> None:
        """The next request's turn."""
        if self.exchange is not None:
            self.exchange = None
            self.guard.open -= 1
        self.served = True
        self.stage, self.since = HEAD, self.loop.time()
        if self.flow.read_paused:
            self.read_on()
        if self.held:
            # In a turn of its own: many short requests in one segment would nest as deep.
            self.loop.call_soon(self.data_received, b"")
        elif self.finished:
            self.close()

    def _clear(self) -> InboundExchange | None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            self.guard.open -= 1
        return exchange

    # ends

    @property
    def receiving(self) -> bool:
        """A head or a body is still coming."""
        return self.stage in (BODY, CHUNKED) or (self.stage == HEAD and self.left > 0)

    def hang_up(self) -> None:
        """Close when everything is sent."""
        self._clear()
        self.close()

    def linger(self) -> None:
        """Close as Go does after an early reply: half-close, drop what comes, close."""
        self._clear()
        self.stage, self.since, self.dropped = DROP, self.loop.time(), 0
        self.outbox.flush()
        if self.finished or self.transport.is_closing():
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.read_on()

    def reset(self) -> None:
        """End the connection with a reset: what is framed by the close must not look whole."""
        if self.exchange is not None:
            self.exchange.lost()
        self.outbox.flush()
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def refuse(self, fault: heads.Fault) -> None:
        """Say what is wrong with the present request, and end the connection."""
        exchange = self._clear()
        started = False
        if exchange is not None:
            started = exchange.started
            exchange.lost()
        elif self.stage != HEAD:
            cycle = self.cycle
            if cycle.response_complete:
                self.linger()
                return
            started, cycle.disconnected = cycle.response_started, True
            cycle.message_event.set()
        if started:
            self.reset()
        else:
            self.write(fault.reply)
            self.linger()


def protocol(take: Take, guard: Guard) -> type[Inbound]:
    """The protocol class for uvicorn's `http=`, bound to who takes its exchanges."""
    return type("Inbound", (Inbound,), {"take": staticmethod(take), "guard": guard})
