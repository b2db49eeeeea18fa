"""Exchange → Call, Reply → Exchange: one line for every way in.

Fills the Call step by step (door, body, reading, rights), has it answered, and
writes the answer. Ends the Call of a client that leaves. Paths of our own are
not taken: they go to Starlette, past the same door.
"""

import asyncio
import re
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec.structs import replace

from ollama_wrap import tasks
from ollama_wrap.api import errors, heads, intake
from ollama_wrap.api.express import Express
from ollama_wrap.api.guards import ASK, Door, Refusal, preflight
from ollama_wrap.api.plan import Plan, Planner, path_of
from ollama_wrap.call import DISTRIBUTED, Call, Header
from ollama_wrap.clock import Clock
from ollama_wrap.dialects import DIALECTS, Ending
from ollama_wrap.errors import (
    AttemptsFailed,
    CallerError,
    NoUpstream,
    StreamBroken,
    UpstreamError,
    WrapError,
)
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.observe import log
from ollama_wrap.proxy import outcome
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.pipeline import Pipeline
from ollama_wrap.proxy.running import Open
from ollama_wrap.reply import Origin, Reply
from ollama_wrap.wire.base import Exchange, Framing
from ollama_wrap.wire.relay import Relay

#: one way to match each character: a path that is not clean is found out in linear time
_CLEAN = re.compile(r"(?:/[A-Za-z0-9._~:@-]+)+/?\Z")
#: whether a head is for a path of ours, among the notes on it
_OURS = "ours"
_DOTS = re.compile(r"/\.{1,2}(?:/|\Z)")
Answering = Coroutine[Any, Any, Ending | None]
#: Seconds past a deadline: a call that still waits here has been answered by then.
_GRACE = 0.02


@dataclass(frozen=True, slots=True)
class Facts:
    """What the edge is told of the program: its id, its own paths, who may do what."""

    node_id: str
    #: exact paths of ours, and prefixes that end in a slash
    paths: frozenset[str]
    prefixes: tuple[str, ...]
    rights: Callable[[Call], None]
    #: what a request of our own to our own Ollama carries; one that comes in here is a loop
    nonce: bytes


class Edge:
    """Takes exchanges; see the module."""

    def __init__(
        self, door: Door, pipeline: Pipeline, fleets: Fleets, facts: Facts, clock: Clock
    ) -> None:
        self._door = door
        self._planner = Planner(door, facts.node_id, facts.nonce)
        self._pipeline = pipeline
        self._fleets = fleets
        self._facts = facts
        self._clock = clock
        self._heads = heads.Heads(fleets, clock)
        #: see `express.Line`
        self.close = pipeline.close
        fleets.changed.subscribe(pipeline.running.look)
        #: of the ids that are made here: the same for all, and how many there were
        self._prefix, self._made = secrets.token_hex(4), 0

    def ours(self, path: str) -> bool:
        """Whether a path (without query) is one of our own; one that is not clean never is."""
        if path in self._facts.paths:
            return True
        if not path.startswith(self._facts.prefixes):
            return False
        return _CLEAN.match(path) is not None and _DOTS.search(path) is None

    def take(self, exchange: Exchange) -> bool:
        """Answer an exchange; False: it is for one of our own routes."""
        ours = exchange.notes.get(_OURS)
        if ours is None:
            ours = exchange.notes[_OURS] = self.ours(path_of(exchange.target))
        if ours:
            return False
        # The body of most requests comes with their head: then it is here.
        exchange.ready = self._begin
        return True

    def _begin(self, exchange: Exchange) -> None:
        now = self._clock.monotonic()
        try:
            plan = exchange.notes.get(exchange.ends)
            if not isinstance(plan, Plan) or now >= plan.until:
                plan = self._planner.plan(exchange, now)
        except Exception:  # noqa: BLE001  nobody else would answer, and the client would wait
            log.get(__name__).exception("a head could not be judged")
            exchange.cut()
            return
        call = self._open(exchange, plan, now)
        one = self._pipeline.open(call, None)
        here = exchange.complete and exchange.length > 0 and not exchange.over
        if plan.usual and here and self._sent_on(exchange, call, one, plan):
            return
        self._start(exchange, one, self._answer(exchange, call, one, plan))

    def _sent_on(self, exchange: Exchange, call: Call, one: Open, plan: Plan) -> bool:
        """Whether the call is on its way without a task; else its body has been read if any."""
        budget = self._pipeline.budget
        if exchange.length > budget.body_limit():
            return False
        attempt: Attempt | None = None
        try:
            intake.take(exchange, call, plan.route, budget)
            self._facts.rights(call)
            attempt = self._pipeline.begin(one)
        except WrapError:
            pass  # said again, and answered, by the usual line
        except Exception as error:  # noqa: BLE001  here nobody else would say it
            self.failed(exchange, one, error)
            self._pipeline.close(one, None)
            return True
        if attempt is None:
            self._start(exchange, one, self._answer_read(exchange, call, one))
        else:
            Express(self, exchange, one, attempt)
        return True

    def _start(self, exchange: Exchange, one: Open, work: Answering) -> None:
        task = tasks.start(self._serve(exchange, one, work), "call", exchange.loop)
        # Not at once: a task that is cancelled before its first step closes nothing.
        leave = partial(exchange.loop.call_soon, task.cancel, "the client left")
        exchange.gone = one.cancel = leave
        if exchange.over:
            leave()

    async def _serve(self, exchange: Exchange, one: Open, work: Answering) -> None:
        ending: Ending | None = None
        try:
            ending = await work
        except asyncio.CancelledError:
            self.ended_early(exchange, one)
        except StreamBroken as error:
            one.status, one.error = one.status or 499, error.text
            exchange.cut()
        except WrapError as error:
            self._refuse(exchange, one.call, one, error)
        except Exception as error:  # noqa: BLE001  a fault of ours is answered and said, not lost
            self.failed(exchange, one, error)
        finally:
            self._pipeline.close(one, ending)

    def failed(self, exchange: Exchange, one: Open, error: Exception) -> None:
        """See `express.Line`."""
        number = one.call.id
        log.get(__name__).error(
            "a request failed in our own code", exc_info=error, request_id=number
        )
        # An error may repeat what it was about: the client's words, which are no line of a log.
        self._refuse(exchange, one.call, one, WrapError("internal error; the log says more"))

    # in

    def _open(self, exchange: Exchange, plan: Plan, now: float) -> Call:
        self._made += 1
        call = replace(
            plan.call,
            id=plan.call.id or f"{self._prefix}-{self._made}",
            started=now,
            mode=self._fleets.current.mode,
            length=exchange.length,
        )
        if plan.seconds is not None:
            call.deadline = now + plan.seconds
        exchange.pace = plan.pace
        return call

    async def _answer(self, exchange: Exchange, call: Call, one: Open, plan: Plan) -> Ending | None:
        refusal = plan.refusal
        if refusal is ASK:
            refusal = await self._door.origin(call, exchange.ends[1])
        if refusal is not None:
            self._turn_away(exchange, one, refusal)
            return None
        if plan.loop is not None:
            raise CallerError(plan.loop, status=508, code="LOOP_DETECTED")
        await intake.read(exchange, call, plan.route, self._pipeline.budget)
        return await self._answer_read(exchange, call, one)

    async def _answer_read(self, exchange: Exchange, call: Call, one: Open) -> Ending | None:
        self._facts.rights(call)
        if call.deadline is None:
            reply = await self._pipeline.answer(one)
        else:
            reply = await self._in_time(one, call.deadline)
        return await self._send(exchange, one, reply)

    async def _in_time(self, one: Open, deadline: float) -> Reply:
        try:
            left = max(0.0, deadline - self._clock.monotonic())
            async with asyncio.timeout(left + _GRACE):
                return await self._pipeline.answer(one)
        except TimeoutError:
            msg = "the deadline of this request passed before a node answered"
            raise WrapError(msg, status=504, code="TIMEOUT") from None

    # out

    async def _send(self, exchange: Exchange, one: Open, reply: Reply) -> Ending | None:
        if isinstance(reply.body, bytes):
            self._whole(exchange, one, reply)
            return None
        self.begin(exchange, one)
        relay = Relay(exchange, reply.body, one.tap.feed)
        relay.start()
        return self.finish(exchange, one, await relay.done)

    def begin(self, exchange: Exchange, one: Open) -> None:
        """See `express.Line`."""
        if one.reply is not None:
            one.status = one.reply.status
            self._heads.begin(exchange, one.call, one.reply)

    def finish(self, exchange: Exchange, one: Open, error: UpstreamError | None) -> Ending | None:
        """See `express.Line`."""
        call = one.call
        if error is not None:
            one.error = error.text
            self._break(exchange, call, one, outcome.of_break(error).word)
            return None
        ending = self._pipeline.judge(one)
        if ending is not None and ending.failed and call.dialect != "ollama":
            # Stock's compatible routes hide a failed engine behind an empty chunk.
            one.error = "the engine failed in mid-stream"
            if call.mode is DISTRIBUTED:
                self._break(exchange, call, one, "bad-response")
                return ending
        exchange.end()
        return ending

    def go_on(self, exchange: Exchange, one: Open) -> None:
        """See `express.Line`."""
        self._start(exchange, one, self._carry_on(exchange, one))

    async def _carry_on(self, exchange: Exchange, one: Open) -> Ending | None:
        return await self._send(exchange, one, await self._pipeline.answer(one))

    def _break(self, exchange: Exchange, call: Call, one: Open, word: str) -> None:
        """End a broken answer so that nobody takes it for whole."""
        if call.mode is DISTRIBUTED and heads.may_mark(one.reply):
            marker = DIALECTS[call.dialect].marker(word, call.id, one.tap.tail())
            exchange.feed([marker])
        exchange.cut()

    def _whole(self, exchange: Exchange, one: Open, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else b""
        fields, _, _ = self._heads.fields(one.call, reply)
        if not any(name.lower() == b"date" for name, _ in fields):
            fields = [*fields, self._heads.date()]
        self._write(exchange, one, reply.status, [*fields, heads.length(body)], body)

    def _turn_away(self, exchange: Exchange, one: Open, refusal: Refusal) -> None:
        """As stock would: with a date, and for HEAD without a length."""
        fields = [*refusal.headers, self._heads.date()]
        if one.call.method != "HEAD":
            fields.append((b"Content-Length", b"%d" % len(refusal.body)))
        fields += self._heads.ours(one.call, Origin())
        self._write(exchange, one, refusal.status, fields, refusal.body)

    def _write(
        self,
        exchange: Exchange,
        one: Open,
        status: int,
        fields: list[Header],
        body: bytes,
    ) -> None:
        one.status = status
        bare = one.call.method == "HEAD" or not body
        framing = Framing.NONE if bare else Framing.LENGTH
        exchange.begin(status, heads.PHRASES.get(status, b""), fields, framing)
        if not bare:
            one.tap.feed([body])
            exchange.feed([body])
        exchange.end()

    def _refuse(self, exchange: Exchange, call: Call, one: Open, error: WrapError) -> None:
        one.error = error.text
        one.attempts = getattr(error, "attempts", ())
        if exchange.started:
            self._break(exchange, call, one, "bad-response")
            return
        if call.method == "OPTIONS" and call.cors and call.mode is DISTRIBUTED:
            # The browser asks whether it may ask; a node may answer what it then asks.
            self._turn_away(exchange, one, preflight(call))
            return
        status, fields, body = errors.render(error, call)
        origin = one.reply.origin if one.reply is not None else Origin(attempts=one.attempts)
        if isinstance(error, NoUpstream | AttemptsFailed) and call.mode is DISTRIBUTED:
            origin.fallback = origin.fallback or "no-nodes"
        self._write(
            exchange,
            one,
            status,
            [
                *fields,
                self._heads.date(),
                heads.length(body),
                *self._heads.ours(call, origin),
            ],
            body,
        )

    def ended_early(self, exchange: Exchange, one: Open) -> None:
        """See `express.Line`."""
        call = one.call
        if exchange.over:
            one.status, one.error = 499, "the client left"
            return
        # Ended by an operator or by shutdown, not by the client.
        one.error = "ended by an operator" if one.ended_by_operator else "shut down"
        if exchange.started:
            self._break(exchange, call, one, "reset")
        else:
            self._refuse(exchange, call, one, WrapError(one.error, status=503))
