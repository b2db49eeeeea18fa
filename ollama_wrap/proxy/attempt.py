"""One try at one upstream: counts it, times it, names its outcome.

An Attempt that was served is the Source of its Reply's body; when that closes,
the place is given back and the node learns how it ended.
"""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from ollama_wrap import tasks
from ollama_wrap.call import DISTRIBUTED, INFER, ONCE, Call, Header, LongBody
from ollama_wrap.errors import NodeGone, UpstreamError, UpstreamTimeout
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.names import is_cloud
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy import headers, limits, outcome, upload
from ollama_wrap.proxy.lesson import learn
from ollama_wrap.proxy.limits import Patience
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.outcome import Outcome
from ollama_wrap.proxy.overlap import Stream
from ollama_wrap.reply import Origin, Reply, Sink
from ollama_wrap.wire.answer import Answer
from ollama_wrap.wire.connection import Connection
from ollama_wrap.wire.pool import Pool

#: An error's body is read up to here to know what it means; what is longer is the answer.
_ERROR_BODY = 64 * 1024
#: A body up to here is sent with its head in one piece; a copy of a longer one costs more.
_JOINED = 64 * 1024
#: Seconds to connect to a node that is thought to be down.
_LAST_GASP = 1.0
#: ends of an answer that came whole: how long it took says how fast the node is
_WHOLE = (outcome.SERVED, outcome.ENGINE)


class Attempt(Struct, eq=False):
    """One try of `call` at `upstream`, where a place is taken for it already.

    `key` is the model's canonical name, None where the call has none.
    """

    _wire: Wire
    call: Call
    upstream: Upstream
    key: str | None
    #: why the router chose this node
    reason: str = "local"
    started: float = 0.0
    reply: Reply | None = None
    outcome: Outcome = outcome.LEFT
    #: the reply ended with the dialect's word for a failed engine
    ending_failed: bool = False
    broken: UpstreamError | None = None
    moved: bool = False
    #: it was under way when its call came to the usual line
    adopted: bool = False
    #: how it ends is told to the node
    learns: bool = True
    _answer: Answer | None = None
    _upload: "asyncio.Task[None] | None" = None
    _stream: Stream | None = None
    _patience: Patience | None = None
    _watching: Callable[[], None] | None = None
    _placed: bool = True
    _closed: bool = False

    def __post_init__(self) -> None:
        self.call.asked = self.upstream.node.id
        self.started = self._wire.clock.monotonic()

    @property
    def answer(self) -> Answer | None:
        """What came of it."""
        return self._answer

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
        if self.outcome is outcome.SERVED:
            self._begun()
        else:
            if self.learns:
                learn(self._wire, self.call, self.upstream, self.key, self.outcome)
            if self._answer is not None and self._answer.complete and self._placed:
                # Its answer is here; the call may go on elsewhere for long.
                self._placed = False
                self.upstream.give(self.key, self._wire.clock.monotonic(), None)
        if self.reply is None:
            self.close()
        return self.outcome

    async def _ask(self, may_move: Callable[[], bool] | None) -> Outcome:
        call = self.call
        reuse, under_way = call.repeatable, self._answer
        while True:
            answer = under_way or await self._send(reuse=reuse)
            held = call.repeatable and call.mode is DISTRIBUTED
            await self._wait(answer, answer.begun if held else answer.arrived, may_move)
            if self.moved:
                return outcome.LOCAL_DOWN if self.upstream.node.local else outcome.NODE_DOWN
            if answer.error is None:
                break
            if not answer.stale or not call.repeatable:
                raise answer.error
            reuse, under_way = False, None
        verdict = outcome.SERVED
        if held and answer.status in outcome.DOUBTFUL and not self._of_cloud():
            body = await answer.peek(_ERROR_BODY)
            verdict = outcome.of_answer(call.kind, answer.status, answer.headers, body)
            if answer.status == 500 and verdict is outcome.SERVED:
                self._wire.strange.say(self.upstream.node.id, body)
        self.reply = self._reply(answer)
        return verdict

    def _of_cloud(self) -> bool:
        """Whether what is said is of a server far away, and no fault of this node."""
        return is_cloud(self.call.model or "") or self.upstream.inventory.stub(self.key or "")

    def _reply(self, answer: Answer) -> Reply:
        node = self.upstream.node
        origin = Origin(node.id, node.local, self.reason)
        return Reply(answer.status, answer.headers, self, answer.phrase, origin, answer.head)

    # begun without a task

    def ask(self) -> bool:
        """Ask the node at once; False: no connection to it is idle."""
        pool = self._wire.pools.find(self.upstream.node)
        connection = pool.reuse() if pool is not None else None
        if connection is None:
            return False
        self._write(connection)
        return True

    def notice(self, call: Callable[[], None] | None) -> None:
        """Call `call` when the reply may become the client's, or has failed."""
        if self._answer is not None:
            self._answer.notice(call, at_head=self.call.mode is not DISTRIBUTED)

    def usual(self) -> Reply | None:
        """The reply if it began as replies do; None: `run` has to look at it."""
        answer = self._answer
        if answer is None or answer.error is not None:
            return None
        if answer.status in outcome.DOUBTFUL and self.call.mode is DISTRIBUTED:
            return None
        self.outcome = outcome.SERVED
        self.reply = self._reply(answer)
        self._begun()
        return self.reply

    def whole(self) -> list[bytes] | None:
        """The body, which is then no longer here, if all of it came at once."""
        answer = self._answer
        if answer is None or not answer.complete or not answer.pieces:
            return None
        pieces, answer.pieces, answer.size = answer.pieces, [], 0
        return pieces

    # the request

    def _pool(self) -> Pool:
        upstream = self.upstream
        return self._wire.pools.of(upstream.node, lambda: upstream.addresses)

    async def _send(self, *, reuse: bool) -> Answer:
        pool = self._pool()
        connection = pool.reuse() if reuse else None
        if connection is None:
            gasp = self.reason == "last-gasp"
            connection = await pool.connect(_LAST_GASP if gasp else None)
        return self._write(connection)

    def _write(self, connection: Connection) -> Answer:
        call, upstream = self.call, self.upstream
        # What goes to a sidecar differs from call to call.
        lines = call.lines if upstream.sidecar is None else None
        known = lines.get(upstream) if lines is not None else None
        if known is None or known[0] is not upstream.node:
            known = (upstream.node, *self._lines())
            if lines is not None:
                lines[upstream] = known
        _, before, after = known
        bare = call.method == "HEAD"
        if type(call.body) is bytes and call.sized is not None and len(call.body) < _JOINED:
            # The usual case, in one step.
            data = b"%b%b: %d\r\n%b%b" % (before, call.sized[1], len(call.body), after, call.body)
            self._answer = answer = connection.send(data, bare=bare, whole=True)
            return answer
        data = before + headers.framing(call, self._size()) + after
        if call.body is None:
            answer = connection.send(data, bare=bare, whole=False)
            if call.rest is not None:
                chunked = self._size() is None
                work = upload.stream(call.rest, connection, chunked=chunked)
                self._upload = tasks.start(work, "upload")
        elif isinstance(call.body, LongBody):
            answer = connection.send(data, bare=bare, whole=False)
            connection.write_parts(call.body.parts)
        elif len(call.body) < _JOINED:
            answer = connection.send(data + call.body, bare=bare, whole=True)
        else:
            answer = connection.send(data, bare=bare, whole=True)
            connection.write(call.body)
        self._answer = answer
        return answer

    def _lines(self) -> tuple[bytes, bytes]:
        """The head's lines before and after the one that frames the body."""
        call, node = self.call, self.upstream.node
        before, after = headers.request(
            call, self._wire.secret, node.authority.encode(), self._marks(), local=node.local
        )
        target = node.prefix.encode() + call.target
        first = b"%b %b HTTP/1.1\r\n" % (call.method.encode(), target)
        return first + headers.joined(before), headers.joined(after) + b"\r\n"

    def _size(self) -> int | None:
        """Bytes of the body; None where it streams without a length."""
        if self.call.body is not None:
            return len(self.call.body)
        return None if self.call.length < 0 else self.call.length

    def _marks(self) -> list[Header]:
        marks, sidecar = list(self.upstream.node.headers), self.upstream.sidecar
        if sidecar is not None:
            own_id, now = self._wire.node_id, self._wire.clock.monotonic()
            marks += headers.marks(self.call, own_id, sidecar.id, now)
        return marks

    # the wait

    async def _wait(
        self,
        answer: Answer,
        what: "asyncio.Future[None]",
        may_move: Callable[[], bool] | None,
    ) -> None:
        if what.done():
            return
        if may_move is not None:
            self._watch(lambda: self._check(what, may_move))
            if self.adopted:
                self._check(what, may_move)
        try:
            if may_move is not None and answer.unsent:
                await limits.taken(answer, what, self._wire.waits.write, may_move)
            limit, hard = self._wire.waits.of(self.call, self.upstream)
            if limit:
                await limits.within(limit, what, self._upload)
                if not what.done() and (hard or (may_move is not None and may_move())):
                    answer.close()
                    raise UpstreamTimeout(f"no answer within {limit:g} s")
            await what
        finally:
            self._watch(None)

    def _watch(self, watching: Callable[[], None] | None) -> None:
        changed = self._wire.fleets.changed
        if self._watching is not None:
            changed.unsubscribe(self._watching)
        self._watching = watching
        if watching is not None:
            changed.subscribe(watching)

    def _check(self, what: "asyncio.Future[None]", may_move: Callable[[], bool]) -> None:
        if self.upstream.state is NodeState.DOWN and not what.done() and may_move():
            self.moved = True
            what.set_result(None)

    # the stream

    def _begun(self) -> None:
        """Its first byte is here."""
        answer, upstream, call = self._answer, self.upstream, self.call
        if answer is None:
            return
        runs = call.mode is DISTRIBUTED and call.kind is INFER and answer.status == 200
        if runs and self.key is not None and not upstream.inventory.has_loaded(self.key):
            self._wire.warmed(upstream.node.id, self.key)
        if not answer.complete:
            self._goes_on(answer)

    def _goes_on(self, answer: Answer) -> None:
        """More of it is to come."""
        waits, upstream = self._wire.waits, self.upstream
        if waits.idle or waits.total:
            self._patience = Patience(waits, answer, self._wire.clock.monotonic() - self.started)
        if self.call.mode is not DISTRIBUTED:
            return
        if self.call.kind is INFER and not upstream.slots(self.key)[1]:
            now = self._wire.clock.monotonic()
            self._stream = self._wire.overlap.begin(upstream, self.key, now)
        if not upstream.node.local:
            self._watch(self._check_gone)

    def _check_gone(self) -> None:
        # A node that is stopped goes on when it is woken; one that cannot be reached is gone.
        health = self.upstream.health
        if health.probed is NodeState.DOWN and health.opened is None and self._answer is not None:
            self._answer.fail(NodeGone("the node cannot be reached any more"))

    # Source

    def start(self, sink: Sink) -> None:
        """See `reply.Source`."""
        if self._answer is not None:
            self._answer.start(sink)

    def pause(self) -> None:
        """See `reply.Source`."""
        if self._stream is not None:
            self._stream.paused = True
        if self._patience is not None:
            self._patience.paused = True
        if self._answer is not None:
            self._answer.pause()

    def resume(self) -> None:
        """See `reply.Source`."""
        if self._patience is not None:
            self._patience.paused = False
        if self._answer is not None:
            self._answer.resume()

    def close(self) -> None:
        """See `reply.Source`; also gives back the place and tells the node how it ended."""
        if self._closed:
            return
        self._closed = True
        if self._watching is not None:
            self._watch(None)
        if self._patience is not None:
            self._patience.stop()
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
        end, answer, upstream = self._end(), self._answer, self.upstream
        wire, kind = self._wire, self.call.kind
        now = wire.clock.monotonic()
        if end is not None and self.learns and not (end is outcome.SERVED and upstream.served(now)):
            learn(wire, self.call, upstream, self.key, end)
        if answer is not None and not answer.complete:
            answer.close()
        if self._stream is not None:
            wire.overlap.end(upstream, self.key, self._stream, now)
        if self._placed:
            self._placed = False
            timed = kind is INFER and end in _WHOLE
            upstream.give(self.key, now, now - self.started if timed else None)
        if kind is ONCE:
            wire.refresh(upstream.node.id)

    def _end(self) -> Outcome | None:
        """How the answer that was served ended; None: there was none, or it was left."""
        answer = self._answer
        if answer is None or self.outcome is not outcome.SERVED:
            return None
        if answer.error is not None:
            return outcome.of_break(answer.error)
        if self.ending_failed:
            return outcome.ENGINE
        return outcome.SERVED if answer.complete else None
