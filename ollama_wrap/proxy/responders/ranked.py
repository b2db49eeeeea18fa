"""The nodes in the router's order, until one answers: the one loop over nodes."""

from collections.abc import Callable
from functools import partial

from ollama_wrap.call import DISTRIBUTED, INFER, LOCAL, Call, Kind
from ollama_wrap.dialects.body import rewritten
from ollama_wrap.errors import AttemptsFailed, NoUpstream, Unavailable
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.names import short
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.observe import log
from ollama_wrap.proxy import outcome
from ollama_wrap.proxy.admit import Admission
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.budget import Budget
from ollama_wrap.proxy.limits import LARGE
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.outcome import Outcome, Repeat
from ollama_wrap.proxy.responders.failed import failed
from ollama_wrap.proxy.responders.trail import Trail, explain
from ollama_wrap.reply import Reply
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.router import Ranking, Router

#: A local Ollama that answered so many seconds ago and refuses now is restarting: it is waited
#: for so long (systemd starts stock again after 3 s), and asked again so often.
_LATELY, _RETURN, _AGAIN = 30.0, 5.0, 0.1
#: Seconds that a call waits to be tried again, in all, and what is left of its own time then.
_PATIENCE, _SPARE = 10.0, 0.05
#: Models, as clients spell them, whose first choice is remembered.
_LEADS = 1024
_ANSWERS = frozenset({NodeState.UP, NodeState.WARMING})
_MAY_ANSWER = _ANSWERS | {NodeState.SUSPECT}


class Ranked:
    """Asks one node after the other.

    `fallback_on` says whether an operator lets a second one be asked;
    `retried` is told the word of each attempt that is repeated.
    """

    def __init__(
        self,
        wire: Wire,
        router: Router,
        admission: Admission,
        budget: Budget,
        fallback_on: Callable[[], bool],
        retried: Callable[[str], None],
    ) -> None:
        self._wire = wire
        self._router = router
        self._admission = admission
        self._budget = budget
        self._fallback_on = fallback_on
        self._retried = retried
        #: an operator limits the time to the first byte
        self._hard = wire.waits.hard
        #: rankings of the first choice alone, by model, side and operation, good until a change
        self._leads: dict[tuple[str | None, str | None, str], Ranking] = {}
        wire.fleets.changed.subscribe(self._leads.clear)

    def retire(self) -> None:
        """Another takes the new calls; those under way go on here."""
        self._wire.fleets.changed.unsubscribe(self._leads.clear)
        self._leads.clear()

    def rank(self, call: Call) -> Ranking:
        """The order in which nodes would be asked now."""
        return self._router.rank(call, self._wire.fleets.current, self._wire.clock.monotonic())

    def begin(self, call: Call) -> Attempt | None:
        """The first choice, asked at once; None: it is not clear, or no connection is idle."""
        if self._hard or log.debugging() or len(call.body or b"") > LARGE:
            return None  # the usual line says why each node was chosen, and ends waits
        if call.mode is LOCAL:
            fleet = self._wire.fleets.current
            ranking = self._router.rank(call, fleet, self._wire.clock.monotonic())
        elif (lead := self._lead(call)) is not None:
            ranking = lead
        else:
            return None
        first = ranking.candidates[0]
        first.upstream.take(ranking.key)
        attempt = Attempt(self._wire, call, first.upstream, ranking.key, first.reason)
        if attempt.ask():
            return attempt
        attempt.learns = False
        attempt.close()
        return None

    def _adopted(self, call: Call, trail: Trail) -> Attempt | None:
        """The attempt that was begun before the call came here, as the first of its trail."""
        begun, call.begun = call.begun, None
        if not isinstance(begun, Attempt):
            return None
        begun.adopted = True
        candidate = Candidate(begun.upstream, begun.reason, 0.0)
        trail.ranking = Ranking((candidate,), begun.key)
        trail.first = begun.upstream.node.id
        trail.tried.went_to(trail.first)
        trail.attempts.append(begun)
        return begun

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        """See `Responder`."""
        trail = Trail()
        try:
            while (attempt := await self._next(call, trail)) is not None:
                end = await self._run(call, attempt, trail)
                if await self._final(call, end, trail):
                    break
        except BaseException:
            trail.close()
            raise
        finally:
            self._rest(trail)
        return self._conclude(call, trail)

    async def _next(self, call: Call, trail: Trail) -> Attempt | None:
        if not trail.attempts and (begun := self._adopted(call, trail)) is not None:
            return begun
        if trail.attempts and not self._fallback_on():
            return None
        if trail.attempts and trail.attempts[-1].outcome is outcome.BUSY:
            trail.tried.was_busy(trail.attempts[-1].upstream.node.id)
        ranking, candidate = await self._admission.place(
            call, partial(self._ranked, call, first=not trail.attempts), trail.tried
        )
        trail.ranking = trail.ranking or ranking
        if log.debugging():
            explain(call, ranking, candidate, trail)
        if candidate is None:
            spare = await self._spare(call, trail)
            if spare is None:
                return None
            spare.take(ranking.key)
            candidate = Candidate(spare, "last-gasp", 0.0)
        if trail.attempts:
            self._retried(trail.attempts[-1].outcome.word)
        upstream = candidate.upstream
        if candidate.reason == "last-gasp" and upstream.state not in _ANSWERS:
            # One that sleeps is probed seldom: now it is needed.
            self._wire.suspect(upstream.node.id)
        trail.first = trail.first or upstream.node.id
        trail.tried.went_to(upstream.node.id)
        asked = call
        if candidate.model is not None:
            asked, call.asked = _renamed(call, candidate.model), upstream.node.id
        attempt = Attempt(self._wire, asked, upstream, candidate.key(ranking.key))
        attempt.reason = candidate.reason
        trail.attempts.append(attempt)
        return attempt

    def _ranked(self, call: Call, *, first: bool = False) -> Ranking:
        if first and (lead := self._lead(call)) is not None:
            return lead
        ranking = self.rank(call)
        if ranking.leads and first:
            self._follow(call, ranking)
        if ranking.passed_over is None or self._fallback_on():
            return ranking
        # Without fallback the preferred side is asked even if it is known to be down.
        preferred = self._preferred(ranking)
        reason = "local" if preferred.node.local else "policy"
        return Ranking((Candidate(preferred, reason, 0.0),), ranking.key, away=ranking.away)

    def _lead(self, call: Call) -> Ranking | None:
        """Who came first a moment ago and still does, if only load has changed since."""
        lead = self._leads.get((call.model, call.side, call.operation))
        if lead is None or call.mode is not DISTRIBUTED or call.hop or call.forced:
            return None
        upstream, now = lead.candidates[0].upstream, self._wire.clock.monotonic()
        taken = upstream.busy(lead.key, now) or upstream.cooling(lead.key, now)
        return None if taken or self._admission.queued(lead.key) else lead

    def _follow(self, call: Call, ranking: Ranking) -> None:
        if len(self._leads) >= _LEADS:
            self._leads.clear()
        self._leads[call.model, call.side, call.operation] = Ranking(
            ranking.candidates[:1], ranking.key
        )

    def _preferred(self, ranking: Ranking) -> Upstream:
        """The first of the side that was passed over."""
        fleet = self._wire.fleets.current
        if not ranking.candidates[0].upstream.node.local or not fleet.others:
            return fleet.local
        holders = [one for one in fleet.holders(ranking.key or "") if not one.node.local]
        return min(holders or fleet.others, key=lambda one: one.node.priority)

    async def _run(self, call: Call, attempt: Attempt, trail: Trail) -> Outcome:
        movable = call.repeatable and len(self._wire.fleets.current.others) > 0
        may_move = (lambda: self._another(call, trail)) if movable else None
        end = await attempt.run(may_move=may_move)
        while end is outcome.CONNECT and self._returns(attempt, trail, call):
            await self._wire.clock.sleep(_AGAIN)
            attempt = self._once_more(attempt, trail)
            end = await attempt.run(may_move=may_move)
        return end

    def _another(self, call: Call, trail: Trail) -> bool:
        now = self._wire.clock.monotonic()
        return self._fallback_on() and any(
            one.upstream.node.id not in trail.tried and one.upstream.available(now)
            for one in self.rank(call).candidates
        )

    def _returns(self, attempt: Attempt, trail: Trail, call: Call) -> bool:
        """Whether this is the local Ollama being restarted, and nobody else can answer."""
        upstream = attempt.upstream
        seen = upstream.health.last_seen
        now = self._wire.clock.monotonic()
        return (
            upstream.node.local
            and call.body is not None
            and seen is not None
            and now - seen < _LATELY
            and now - trail.attempts[0].started < _RETURN
            and not self._answering(call, trail)
        )

    def _answering(self, call: Call, trail: Trail) -> bool:
        """Whether a node is left that may be asked, or answers probes though calls failed there."""
        now = self._wire.clock.monotonic()
        return self._fallback_on() and any(
            one.upstream.available(now) or one.upstream.state in _ANSWERS
            for one in self.rank(call).candidates
            if one.upstream.node.id not in trail.tried
        )

    def _once_more(self, attempt: Attempt, trail: Trail) -> Attempt:
        attempt.upstream.take(attempt.key)
        again = Attempt(self._wire, attempt.call, attempt.upstream, attempt.key)
        again.reason = attempt.reason
        again.started = attempt.started
        again.learns = False
        trail.attempts[-1] = again
        return again

    async def _final(self, call: Call, end: Outcome, trail: Trail) -> bool:
        """Whether it ends with this attempt."""
        if end.repeat is Repeat.NO or not call.repeatable:
            return True
        if end.repeat is Repeat.FREE:
            self._rest(trail)  # the next attempt is none that counts
        return end.repeat is Repeat.COUNTED and not await self._may_repeat(call, end, trail)

    async def _may_repeat(self, call: Call, end: Outcome, trail: Trail) -> bool:
        self._rest(trail)
        trail.counted += 1
        if not self._left(call, trail):
            return False
        if end is outcome.RESET and not self._budget.may_retry(trail.counted):
            upstream = trail.attempts[-1].upstream
            await self._wire.probe(upstream.node.id)
            if upstream.health.fails > 0:
                trail.counted -= 1  # it has gone, and did no work for the attempt
                return True
        if not await self._turn(call, trail):
            return False
        await self._wire.clock.sleep(self._budget.backoff(trail.counted))
        return True

    async def _turn(self, call: Call, trail: Trail) -> bool:
        """Whether the call may be tried again; it waits for its turn while a sound node is left."""
        now = self._wire.clock.monotonic()
        waits = not self._budget.may_retry(trail.counted)
        if waits and not self._left(call, trail, sound=True):
            return False  # where all fail, it would only fail again, a little later
        trail.until = trail.until or now + _PATIENCE
        # What has come so far is the answer, if the client's own time ends first.
        end = trail.until if call.deadline is None else min(trail.until, call.deadline - _SPARE)
        trail.retrying = await self._budget.turn(trail.counted, end - now)
        if waits and not self._left(call, trail, sound=True):
            self._rest(trail)
        return trail.retrying

    def _left(self, call: Call, trail: Trail, *, sound: bool = False) -> bool:
        """Whether somebody is left to ask; `sound`: where calls are not failing."""
        tried, now = trail.tried, self._wire.clock.monotonic()
        candidates = [one.upstream for one in self._ranked(call).candidates]
        left = [one for one in candidates if one.node.id not in tried]
        if sound:
            return any(one.available(now) and one.sound(now) for one in left)
        return self._fallback_on() and bool(left or self._spares(call, trail))

    async def _spare(self, call: Call, trail: Trail) -> Upstream | None:
        """The last resort; one in doubt has to answer a probe before."""
        for one in self._spares(call, trail):
            if one.state in _ANSWERS:
                return one
            await self._wire.probe(one.node.id)
            if not one.health.fails:
                return one
        return None

    def _spares(self, call: Call, trail: Trail) -> list[Upstream]:
        """Holders that may answer though their circuits are open: better than nobody.

        Of the build that was asked first: another may not be wanted. Those in doubt come last.
        """
        first = trail.attempts[0] if trail.attempts else None
        if first is None or first.key is None or first.call is not call or call.forced:
            return []
        if call.mode is not DISTRIBUTED or call.hop:
            return []
        key, digest = first.key, first.upstream.inventory.digest(first.key)
        found = []
        for one in self._wire.fleets.current.holders(key):
            fits = one.routable and one.accepts(key) and call.operation not in one.lacking
            there = one.state in _MAY_ANSWER and one.inventory.digest(key) == digest
            if fits and there and one.node.id not in trail.tried:
                found.append(one)
        return sorted(found, key=lambda one: one.state not in _ANSWERS)

    def _rest(self, trail: Trail) -> None:
        if trail.retrying:
            trail.retrying = False
            self._budget.give_back()

    def _conclude(self, call: Call, trail: Trail) -> Reply:
        if not trail.attempts:
            raise self._nobody(call, trail)
        served = trail.attempts[-1]
        if served.outcome is outcome.SERVED and len(trail.attempts) == 1 and served.reply:
            origin = served.reply.origin
            origin.reason = served.reason
            origin.fallback = trail.ranking.passed_over if trail.ranking is not None else None
            origin.model = _other_model(call, served)
            return served.reply
        if served.outcome.repeat is not Repeat.NO or served.reply is None:
            answered = [one for one in trail.attempts if one.reply is not None]
            served = next(
                (one for one in answered if one.upstream.node.id == trail.first),
                answered[-1] if answered else served,
            )
        trail.close(keep=served)
        if served.reply is None:
            raise self._away(call, trail) or failed(call, trail.attempts)
        reply = served.reply
        reply.origin.reason = served.reason
        reply.origin.fallback = trail.fallback()
        reply.origin.attempts = trail.words()
        reply.origin.model = _other_model(call, served)
        nobodys = all(one.outcome is outcome.MISSING for one in trail.attempts)
        if served.outcome.repeat is Repeat.NO or nobodys:
            return reply  # that nobody has the model is an answer, whatever is kept of it
        raise self._with_answer(call, trail, reply)

    def _with_answer(self, call: Call, trail: Trail, reply: Reply) -> AttemptsFailed:
        error = failed(call, trail.attempts)
        error.answer = reply
        return error

    def _nobody(self, call: Call, trail: Trail) -> Unavailable:
        return self._away(call, trail) or NoUpstream(
            "no node can take this request: "
            + (f"node {call.forced} is not available" if call.forced else "none is available")
        )

    def _away(self, call: Call, trail: Trail) -> Unavailable | None:
        """The holder is away: its name helps more than a 404, which makes the CLI download."""
        ranking = trail.ranking
        if ranking is None or ranking.key is None:
            return None
        away = ranking.away or trail.vanished()
        if not away or call.kind not in {INFER, Kind.FOLLOW}:
            return None
        clock = self._wire.clock
        nodes = ", ".join(
            f"{node}, which has not answered since {clock.local_time(seen)}"
            if seen
            else f"{node}, which does not answer"
            for node, seen in away
        )
        text = f"model '{call.model or short(ranking.key)}' is on {nodes}"
        error = AttemptsFailed(text, trail.words())
        error.retry_after = 5
        return error


def _renamed(call: Call, model: str) -> Call:
    """The call with another model's name in its body."""
    body = rewritten(call.body or b"", call.named or (), model)
    return call.altered(model=model, body=body, named=None)


def _other_model(call: Call, served: Attempt) -> str | None:
    return None if served.call is call else served.call.model
