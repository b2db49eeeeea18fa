"""The clients' side: one connection, its requests one after the other.

A subclass of uvicorn's httptools protocol, because that one cannot be
transparent: it loses the raw target and the body of `Upgrade: h2c`, merges
trailers into the headers, chunks to HTTP/1.0 clients, sends `100 Continue` too
early, and swallows the rest of an upload after an early reply. Each request
becomes an InboundExchange and is offered to `take`; what that does not take
goes uvicorn's usual way to the ASGI application.

A connection walks HEAD → BODY or CHUNKED → ANSWER → HEAD. While an answer is
pending, the bytes of a next request wait unread, so the parser never sees more
than one request at a time.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from enum import Enum
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ollama_wrap.wire import head as heads
from ollama_wrap.wire.base import Exchange
from ollama_wrap.wire.exchange import InboundExchange
from ollama_wrap.wire.guard import Guard, Limits

Take = Callable[[Exchange], bool]

HEAD, BODY, CHUNKED, ANSWER, DROP = range(5)


class Upgrade(Enum):
    """What is known of a request's wish for another protocol."""

    NONE = 0
    WANTED = 1
    """Seen: the head is read again without it."""
    MASKED = 2
    """The field has a name now that the parser does not know."""


#: Write marks of a stream: stop reading the node above, read on below.
HIGH, LOW = 1024 * 1024, 256 * 1024
#: Bytes of a next request kept while an answer is pending.
PIPELINED = 64 * 1024
#: What is dropped after an early reply before the connection closes, as Go's server does.
DROPPED = 256 * 1024

#: Seconds that a connection drops what still comes after an early reply.
LINGER = 0.5

_UPGRADE = re.compile(rb"\r\nupgrade(?=[ \t]*:)", re.IGNORECASE)
_BLANK = (b"\r", b"\n")
_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
_MASKED = b"upgrad~"
#: TCP_CLOSE and TCP_CLOSE_WAIT of linux/tcp_states.h
_LEFT = (7, 8)


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
        self.stage = HEAD
        self.since = self.loop.time()
        self.exchange: InboundExchange | None = None
        self.fault: heads.Fault | None = None
        self.upgrade = Upgrade.NONE
        self.extra = self.served = False
        self.left = self.dropped = 0
        self.held = self.raw_target = b""

    # transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(HIGH, LOW)
        if (fault := self.guard.admit(self)) is not None:
            self._refuse(fault)

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.forget(self)
        exchange, self.exchange = self.exchange, None
        super().connection_lost(exc)
        if exchange is not None:
            exchange.lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.exchange is not None:
            self.exchange.stall(self.loop.time())

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
            super().shutdown()

    # bytes in

    def data_received(self, data: bytes) -> None:
        if self.held:
            data, self.held = self.held + data, b""
        while data and not self.transport.is_closing():
            if self.stage == HEAD:
                data = self._take_head(data)
            elif self.stage == BODY:
                part, data = data[: self.left], data[self.left :]
                self.left -= len(part)
                self.since = self.loop.time()
                self._parse(part)
            elif self.stage == CHUNKED:
                self.since = self.loop.time()
                self._parse(data)
                return
            elif self.stage == ANSWER:
                self._hold(data)
                return
            else:
                self._drop(len(data))
                return

    def _take_head(self, data: bytes) -> bytes:
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        if data[:1] in _BLANK:
            self._refuse(heads.Fault(400))  # as stock: no empty line before a request
            return b""
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:
            if not self.left:
                self.left, self.since = 1, self.loop.time()  # the head's first byte is here
            if (fault := heads.unfinished(data)) is not None:
                self._refuse(fault)
            else:
                self.held = data
            return b""
        if end > heads.MAX_HEAD:
            self._refuse(heads.Fault(431, "request head too large"))
            return b""
        self.left = 0
        self.since = self.loop.time()
        head, rest = (data, b"") if end == len(data) else (data[:end], data[end:])
        line, _, fields = head.partition(b"\r\n")
        self.raw_target = b""
        if line.count(b" ") != 2:
            self._refuse(heads.Fault(400))
            return b""
        if not line.isascii():
            # httptools refuses bytes that stock takes in a target.
            self.raw_target = line[line.find(b" ") + 1 : line.rfind(b" ")]
            head = _EIGHT_BIT.sub(b"x", line) + b"\r\n" + fields
        self._parse(head)
        return rest

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self.fault = self.fault or heads.Fault(400)
        if self.upgrade is Upgrade.WANTED:
            self._parse_masked(data)
        elif self.fault is not None:
            self._refuse(self.fault)

    def _parse_masked(self, data: bytes) -> None:
        # httptools would skip the body of a request that asks for another protocol. Nobody here
        # speaks one, so the field is given a name that the parser does not know, then left out.
        self.upgrade = Upgrade.MASKED
        self.parser = httptools.HttpRequestParser(self)
        self._parse(_UPGRADE.sub(b"\r\n" + _MASKED, data))

    def _hold(self, data: bytes) -> None:
        self.held = data
        if len(data) > PIPELINED:
            self.flow.pause_reading()

    def _drop(self, size: int) -> None:
        self.dropped += size
        if self.dropped > DROPPED:
            self.transport.close()

    # parser

    def on_message_begin(self) -> None:
        if self.stage != HEAD:
            self.extra = True
            return
        self.url = b""
        self.headers = []

    def on_url(self, url: bytes) -> None:
        if not self.extra:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Fields that come after the head are trailers: dropped, never merged.
        if self.stage == HEAD and name != _MASKED:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self.parser
        if self.extra:
            return
        method = parser.get_method()
        if parser.should_upgrade() and method != b"CONNECT":
            self.upgrade = Upgrade.WANTED
            return
        version = parser.get_http_version()
        target = self.raw_target or self.url
        fields = {name.lower(): value for name, value in reversed(self.headers)}
        if target[:4].lower() == b"http":
            target = heads.own_path(target, fields.get(b"host", b"")) or target
        self.fault = heads.check(method, target, version, self.headers)
        if self.fault is None:
            self._open(method.decode("ascii"), target, fields, http11=version == "1.1")

    def _open(
        self, method: str, target: bytes, fields: dict[bytes, bytes], *, http11: bool
    ) -> None:
        if b"transfer-encoding" in fields:
            self.stage, length = CHUNKED, -1
        else:
            length = self.left = int(fields.get(b"content-length", b"0"))
            self.stage = BODY
        self.exchange = exchange = InboundExchange(self, method, target, self.headers, fields)
        exchange.http11 = http11
        exchange.length = length
        exchange.keep_alive = self.parser.should_keep_alive()
        if not self.take(exchange):
            self.exchange = None
            self._to_application(exchange)

    def on_body(self, body: bytes) -> None:
        if self.extra:
            return
        if self.exchange is not None:
            self.exchange.arrived(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.extra or self.upgrade is Upgrade.WANTED or self.fault is not None:
            return
        self.stage = ANSWER
        self.upgrade = Upgrade.NONE
        if self.exchange is not None:
            self.exchange.arrived(b"")
        elif self.cycle.response_complete:
            self.on_response_complete()
        else:
            super().on_message_complete()

    # the ASGI application, for paths of our own

    def _to_application(self, exchange: InboundExchange) -> None:
        super().on_message_begin()
        self.url = exchange.target
        self.headers[:] = [(name.lower(), value) for name, value in exchange.headers]
        self.expect_100_continue = b"expect" in exchange.fields
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """An answer is complete: the next request's turn."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.extra:
            self.transport.close()
            return
        if self.stage != ANSWER:
            # Only an application answers here before the body has ended; the rest is dropped.
            self.flow.resume_reading()
            return
        self.exchange = None
        self.served = True
        self.stage, self.since = HEAD, self.loop.time()
        self.flow.resume_reading()
        if self.held:
            data, self.held = self.held, b""
            self.data_received(data)

    # ends

    def sweep(self, now: float, limits: Limits) -> None:
        """Close what has passed a limit of its client; called a few times a second."""
        age = now - self.since
        exchange = self.exchange
        if self.stage == HEAD:
            if self.left and _passed(age, limits.header_deadline):
                self._refuse(heads.Fault(408, "request head too slow"))
            elif not self.left and _passed(age, self._idle_limit(limits)):
                self.transport.close()
        elif self.stage == DROP:
            if age > LINGER:
                self.transport.abort()
        elif exchange is None:
            return
        elif self.flow.read_paused:
            self.since = now
            if _closed_by_peer(self.transport):
                self.transport.abort()
        elif self.stage != ANSWER and _passed(age, limits.body_idle):
            self._refuse(heads.Fault(408, "request body too slow"))
        elif exchange.paused and _passed(now - exchange.progressed(now), limits.write_stall):
            exchange.reset()

    def _idle_limit(self, limits: Limits) -> float:
        return limits.keepalive_idle if self.served else limits.first_byte

    def linger(self) -> None:
        """Close as Go does after an early reply: half-close, drop what comes, close."""
        self.exchange = None
        self.stage, self.since = DROP, self.loop.time()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def _refuse(self, fault: heads.Fault) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None and exchange.started:
            exchange.lost()
            exchange.reset()
            return
        self.transport.write(fault.reply)
        if exchange is not None:
            exchange.lost()
        self.linger()


def _passed(age: float, limit: float) -> bool:
    return 0 < limit < age


def _closed_by_peer(transport: asyncio.Transport) -> bool:
    # While reading is paused the loop does not see the client leave; Linux tells.
    sock = transport.get_extra_info("socket")
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state in _LEFT


def protocol(take: Take, guard: Guard) -> type[Inbound]:
    """The protocol class for uvicorn's `http=`, bound to who takes its exchanges."""
    return type("Inbound", (Inbound,), {"take": staticmethod(take), "guard": guard})
