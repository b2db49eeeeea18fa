"""Opens a Call, answers it, closes it.

The one place that knows which responders stand in line for which kind of call.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ollama_wrap.call import DISTRIBUTED, INFER, LIST, LOCAL, ONCE, STANDALONE, Call, Kind, Priority
from ollama_wrap.clock import Clock
from ollama_wrap.dialects import DIALECTS, Ending
from ollama_wrap.errors import Overloaded
from ollama_wrap.observe.ended import Ended
from ollama_wrap.proxy import fallback
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.budget import Budget
from ollama_wrap.proxy.responders.base import Responder
from ollama_wrap.proxy.running import Open, Running
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.reply import Origin, Reply
from ollama_wrap.routing.router import Ranking

#: Statuses of calls that did what was asked.
_GOOD = range(200, 300)
_NOTHING = Ending(done=False, failed=False)


@dataclass(frozen=True, slots=True)
class Responders:
    """All there are."""

    ranked: Responder
    cached: Responder
    local: Responder
    merged: Responder
    spread: Responder
    follow: Responder


class Chains:
    """Which responders stand in line, by kind and mode."""

    def __init__(self, all_: Responders) -> None:
        ranked, follow = (all_.ranked, all_.cached), (all_.follow,)
        local = (all_.local,)
        self._distributed: Mapping[Kind, Sequence[Responder]] = {
            INFER: ranked,
            Kind.FOLLOW: follow,
            Kind.SPREAD: (all_.spread,),
            LIST: (all_.merged,),
            ONCE: local,
            Kind.OTHER: local,
        }
        # Kept answers are the one thing that `local` has not.
        self._standalone = {**dict.fromkeys(Kind, local), INFER: ranked}
        self._show = (all_.ranked,)
        self._local = {**dict.fromkeys(Kind, local), INFER: (all_.ranked,)}

    def of(self, call: Call) -> Sequence[Responder]:
        """The line for `call`; one that another sidecar passed on is served here or refused."""
        if call.mode is LOCAL or call.hop:
            return self._local[call.kind]
        if call.mode is DISTRIBUTED:
            return self._distributed[call.kind]
        # The command line downloads a model whose show says that there is none.
        shows = call.kind is Kind.FOLLOW and call.repeatable
        return self._show if shows else self._standalone[call.kind]


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of calls: the log, the metrics, the cache."""

    ended: Callable[[Ended, Kind], None]
    store: Callable[[Call, Reply, Tap, Ending], None]
    #: bytes of an answer that the cache would take of this call; 0: none
    keep: Callable[[Call], int]


class Pipeline:
    """One request, start to end."""

    def __init__(
        self,
        chains: Chains,
        rank: Callable[[Call], Ranking],
        told: Told,
        budget: Budget,
        clock: Clock,
        begin: Callable[[Call], Attempt | None] = lambda _: None,
    ) -> None:
        self._begin = begin
        self._chains = chains
        self._rank = rank
        self._told = told
        self._clock = clock
        self.budget = budget
        self._strain = budget.strain
        self.running = Running()

    def obey(
        self,
        chains: Chains,
        rank: Callable[[Call], Ranking],
        begin: Callable[[Call], Attempt | None],
    ) -> None:
        """Answer by these from now on; calls that are under way keep those they began with."""
        self._chains, self._rank, self._begin = chains, rank, begin

    def open(self, call: Call, cancel: Callable[[], object] | None) -> Open:
        """A request has come; whoever opens it closes it. `cancel` ends its task."""
        self.budget.running += 1
        tap = Tap(self._clock.monotonic, 0)
        return self.running.add(call, cancel, tap, self._clock.now())

    def begin(self, one: Open) -> Attempt | None:
        """The first attempt of a call whose first choice is clear; None: `answer` it."""
        call = one.call
        if call.kind is not INFER or not call.repeatable or call.mode is STANDALONE:
            return None
        if self._strain.turns_away:
            return None  # `answer` says so
        one.tap.keep = self._told.keep(call)
        return self._begin(call)

    async def answer(self, one: Open) -> Reply:
        """The answer, its body still open. Raises WrapError when there is none."""
        call = one.call
        if call.dry_run and call.mode is DISTRIBUTED:
            return self._dry(call)
        if self._strain.turns_away:
            self._turn_away(call)
        one.tap.keep = self._told.keep(call)
        reply = one.reply = await fallback.answer(call, self._chains.of(call))
        one.status = reply.status
        return reply

    def _turn_away(self, call: Call) -> None:
        """Raise Overloaded where the call is one of those that are not taken now.

        It begins as stock's own refusal does, so that another sidecar asks somebody else.
        """
        strain = self._strain
        if call.kind is not INFER or not (strain.refuse or call.priority is Priority.LOW):
            return
        why = "is short of memory" if strain.refuse else "takes no calls of low priority now"
        raise Overloaded(f"server busy: this sidecar {why}", retry_after=strain.retry_after)

    def judge(self, one: Open) -> Ending | None:
        """What the end of a whole inference answer says; None for other calls."""
        call, reply = one.call, one.reply
        if call.kind is not INFER or reply is None or isinstance(reply.body, bytes):
            return None
        streamed = reply.alike.streamed if reply.alike is not None else _streamed(reply)
        ending = DIALECTS[call.dialect].ending(call.operation, streamed, one.tap.tail())
        # The end of an error says nothing about an engine.
        good = reply.status in _GOOD
        if isinstance(reply.body, Attempt):
            # An error with a status of its own was judged when it came.
            reply.body.ending_failed = good and ending.failed
        if good and ending.done and not ending.failed:
            self._told.store(call, reply, one.tap, ending)
        return ending

    def close(self, one: Open, ending: Ending | None) -> None:
        """A request has ended, however it did."""
        call, reply, budget = one.call, one.reply, self.budget
        if reply is not None:
            reply.close()
        if call.body is not None:
            budget.kept -= len(call.body)
        budget.running -= 1
        self.running.remove(one)
        if call.hop and call.kind is LIST:
            return  # a peer's probe, which comes every few seconds
        self._told.ended(self._facts(one, ending), call.kind)

    def _facts(self, one: Open, ending: Ending | None) -> Ended:
        call, reply, tap = one.call, one.reply, one.tap
        origin = reply.origin if reply is not None else Origin(attempts=one.attempts)
        said = ending if ending is not None else _NOTHING
        # By place: by name it takes seven times as long.
        return Ended(
            call.id,
            call.method,
            call.path,
            call.operation,
            call.model,
            origin.node,
            origin.reason,
            origin.fallback,
            origin.attempts,
            one.status,
            tap.total,
            said.tokens,
            None if tap.first is None else tap.first - call.started,
            self._clock.monotonic() - call.started,
            one.error,
            said.prompt_tokens,
            call.stream and tap.several,
        )

    def _dry(self, call: Call) -> Reply:
        """The ranking instead of an answer; no node is asked."""
        ranking = self._rank(call)
        shape = {
            "mode": call.mode.value,
            "model": call.model,
            "ranking": [
                {
                    "node": one.upstream.node.id,
                    "score": one.score,
                    "reason": one.reason,
                    "busy": one.busy,
                    "loaded": one.loaded,
                    **({} if one.model is None else {"model": one.model}),
                }
                for one in ranking.candidates
            ],
            "fallback": ranking.passed_over,
        }
        return Reply(200, [(b"Content-Type", b"application/json")], json.dumps(shape).encode())


def _streamed(reply: Reply) -> bool:
    """Whether the answer is a stream: its own Content-Type has the last word."""
    for name, value in reply.headers:
        if name.lower() == b"content-type":
            return value.startswith((b"application/x-ndjson", b"text/event-stream"))
    return False
