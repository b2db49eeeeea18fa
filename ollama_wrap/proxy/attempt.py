"""One try at one upstream: counts it, times it, names its outcome.

An Attempt that was served is the Source of its Reply's body; when that closes,
the place is given back and the node learns how it ended.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ollama_wrap import tasks
from ollama_wrap.call import Call, Header, Kind, Mode
from ollama_wrap.clock import Clock
from ollama_wrap.errors import StreamBroken, UpstreamError, UpstreamTimeout
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.node import Node
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy import headers, outcome
from ollama_wrap.proxy.outcome import Outcome
from ollama_wrap.reply import Origin, Reply, Sink
from ollama_wrap.wire.connection import Answer, Connection
from ollama_wrap.wire.pools import Pools

#: An error's body is read up to here to know what it means; what is longer is the answer.
_ERROR_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds that a node may take to its first byte; 0: no limit."""

    meta: float = 5.0
    show: float = 15.0
    first_byte: float = 0.0
    first_byte_once: float = 0.0

    def of(self, call: Call, upstream: Upstream) -> float:
        """The limit of this call at this node."""
        if call.kind is Kind.INFER:
            return self.first_byte
        if call.kind is Kind.ONCE or upstream.node.local or not call.repeatable:
            return self.first_byte_once
        return self.show if call.kind is Kind.FOLLOW else self.meta


@dataclass(slots=True)
class Wire:
    """What attempts are made with."""

    pools: Pools
    fleets: Fleets
    clock: Clock
    waits: Waits
    #: name for `Via`
    node_id: str
    #: called with a node id that a call put in doubt, or whose models changed
    suspect: Callable[[str], None]
    refresh: Callable[[str], None]


@lru_cache(maxsize=256)
def _host(node: Node) -> bytes:
    host = f"[{node.host}]" if ":" in node.host else node.host
    return f"{host}:{node.port}".encode()


class Attempt:
    """One try of `call` at `upstream`, where a place is taken for it already.

    `key` is the model's canonical name, None where the call has none.
    """

    __slots__ = (
        "_answer",
        "_closed",
        "_upload",
        "_watching",
        "_wire",
        "broken",
        "call",
        "ending_failed",
        "key",
        "moved",
        "outcome",
        "reason",
        "reply",
        "started",
        "upstream",
    )

    def __init__(self, wire: Wire, call: Call, upstream: Upstream, key: str | None) -> None:
        self._wire = wire
        self.call = call
        self.upstream = upstream
        self.key = key
        self.started = wire.clock.monotonic()
        self.reply: Reply | None = None
        self.outcome: Outcome = outcome.LEFT
        #: the reply ended with the dialect's word for a failed engine
        self.ending_failed = False
        self.broken: UpstreamError | None = None
        self.moved = False
        self._answer: Answer | None = None
        self._upload: asyncio.Task[None] | None = None
        self._closed = False
        #: why the router chose this node
        self.reason = "local"

    @property
    def sent(self) -> bool:
        """Bytes of the request went out."""
        return self._answer is not None

    async def run(self, *, may_move: Callable[[], bool] | None) -> Outcome:
        """Ask the node.

        `reply` is set when it answered at all. `may_move` says whether another
        candidate could take the call if this node goes down meanwhile; None: it
        stays here whatever happens.
        """
        try:
            self.outcome = await self._ask(may_move)
        except UpstreamError as error:
            self.broken = error
            self.outcome = outcome.of_error(error)
        except BaseException:
            self.close()
            raise
        if self.outcome is not outcome.SERVED:
            self._learn(self.outcome)
        if self.reply is None:
            self.close()
        return self.outcome

    async def _ask(self, may_move: Callable[[], bool] | None) -> Outcome:
        call = self.call
        while True:
            answer = await self._send()
            held = call.repeatable and call.mode is Mode.DISTRIBUTED
            await self._wait(answer, answer.begun if held else answer.arrived, may_move)
            if self.moved:
                return outcome.NODE_DOWN
            if answer.error is None:
                break
            if not answer.stale or not call.repeatable:
                raise answer.error
        verdict = outcome.SERVED
        if held and answer.status in outcome.DOUBTFUL:
            body = await answer.peek(_ERROR_BODY)
            verdict = outcome.of_answer(call.kind, answer.status, answer.headers, body)
        self.reply = self._reply(answer)
        return verdict

    def _reply(self, answer: Answer) -> Reply:
        node = self.upstream.node
        return Reply(
            status=answer.status,
            headers=answer.headers,
            body=self,
            phrase=answer.phrase,
            origin=Origin(node=node.id, local=node.local),
        )

    # the request

    async def _send(self) -> Answer:
        call = self.call
        upstream = self.upstream
        pool = self._wire.pools.of(upstream.node, lambda: upstream.addresses)
        connection = pool.reuse() if call.repeatable else None
        if connection is None:
            connection = await pool.connect()
        data = self._head()
        bare = call.method == "HEAD"
        if call.body is None:
            answer = connection.send(data, bare=bare, whole=False)
            self._upload = tasks.start(self._stream_body(connection), "upload")
        else:
            answer = connection.send(data + call.body, bare=bare, whole=True)
        self._answer = answer
        return answer

    def _head(self) -> bytes:
        call = self.call
        node = self.upstream.node
        length = self._length()
        fields = headers.request(call, _host(node), self._marks(), local=node.local, length=length)
        target = node.prefix.encode() + call.target if node.prefix else call.target
        return b"%b %b HTTP/1.1\r\n%b\r\n" % (
            call.method.encode(),
            target,
            headers.joined(fields),
        )

    def _length(self) -> int | None:
        """Bytes of the body; None where it streams without a length."""
        if self.call.body is not None:
            return len(self.call.body)
        announced = self.call.fields.get(b"content-length")
        return None if announced is None else int(announced)

    def _marks(self) -> list[Header]:
        marks = list(self.upstream.node.headers)
        if self.upstream.sidecar is not None:
            marks += [
                (b"Via", b"1.1 " + self._wire.node_id.encode()),
                (b"X-Ollama-Hop", b"1"),
                (b"X-Request-ID", self.call.id.encode()),
            ]
        return marks

    async def _stream_body(self, connection: Connection) -> None:
        call = self.call
        rest = call.rest
        chunked = self._length() is None
        if rest is None:
            return
        try:
            while part := await rest.read():
                connection.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                await connection.drained()
                if connection.closed or connection.answer is None:
                    return
            if chunked:
                connection.write(b"0\r\n\r\n")
            connection.sent()
        except StreamBroken:
            return  # the client left; its task is being cancelled
        finally:
            if connection.answer is None and not connection.closed and not connection.whole:
                connection.drop()

    # the wait

    async def _wait(
        self,
        answer: Answer,
        what: "asyncio.Future[None]",
        may_move: Callable[[], bool] | None,
    ) -> None:
        if what.done():
            return
        limit = self._wire.waits.of(self.call, self.upstream)
        try:
            if may_move is None:
                await self._within(limit, what)
                return
            self._watching = lambda: self._check(what, may_move)
            changed = self._wire.fleets.changed
            changed.subscribe(self._watching)
            try:
                await self._within(limit, what)
            finally:
                changed.unsubscribe(self._watching)
        except TimeoutError:
            answer.close()
            msg = f"no answer within {limit:g} s"
            raise UpstreamTimeout(msg) from None

    async def _within(self, limit: float, what: "asyncio.Future[None]") -> None:
        if not limit:
            await what
            return
        async with asyncio.timeout(limit):
            await what

    def _check(self, what: "asyncio.Future[None]", may_move: Callable[[], bool]) -> None:
        if self.upstream.state is NodeState.DOWN and not what.done() and may_move():
            self.moved = True
            what.set_result(None)

    # Source

    def start(self, sink: Sink) -> None:
        """See `reply.Source`."""
        if self._answer is not None:
            self._answer.start(sink)

    def pause(self) -> None:
        """See `reply.Source`."""
        if self._answer is not None:
            self._answer.pause()

    def resume(self) -> None:
        """See `reply.Source`."""
        if self._answer is not None:
            self._answer.resume()

    def close(self) -> None:
        """See `reply.Source`; also gives back the place and tells the node how it ended."""
        if self._closed:
            return
        self._closed = True
        answer = self._answer
        clock = self._wire.clock
        now = clock.monotonic()
        whole = answer is not None and answer.complete
        if self.outcome is outcome.SERVED and answer is not None:
            if answer.error is not None:
                self._learn(outcome.of_break(answer.error))
            elif self.ending_failed:
                self._learn(outcome.ENGINE)
            elif whole:
                self.upstream.record(outcome.SERVED.verdict, self.key, now, clock.now())
        if answer is not None:
            answer.close()
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
        self.upstream.give(self.key, now, now - self.started if whole else None)
        if self.call.kind is Kind.ONCE:
            self._wire.refresh(self.upstream.node.id)

    def _learn(self, end: Outcome) -> None:
        clock = self._wire.clock
        now = clock.monotonic()
        self.upstream.record(end.verdict, self.key, now, clock.now())
        if end.saturated:
            self.upstream.saturated(now)
        if end.doubt:
            self._wire.suspect(self.upstream.node.id)
        if end.absent:
            self._wire.refresh(self.upstream.node.id)
