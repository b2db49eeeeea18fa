"""Trail: what one call has been through, node after node.

Owns what is told of it afterwards. It must not know who is asked next, nor wait.
"""

from dataclasses import dataclass, field

from ollama_wrap.call import Call
from ollama_wrap.observe import log
from ollama_wrap.proxy import outcome
from ollama_wrap.proxy.admit import Tried
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.router import Ranking

_NOT_THERE = frozenset({outcome.CONNECT, outcome.TIMEOUT, outcome.NODE_DOWN})
#: words of an attempt that say nothing of a failure
_NO_FAILURE = frozenset({"served", "busy"})


@dataclass(slots=True)
class Trail:
    """The attempts of a call, in order; `counted`: those that may have cost a node work.

    `ranking` and `first`: what was thought of it when it came, and who was asked first.
    """

    attempts: list[Attempt] = field(default_factory=list)
    tried: Tried = field(default_factory=Tried)
    counted: int = 0
    #: a counted attempt is being repeated
    retrying: bool = False
    #: how long it may wait to be tried again in all, monotonic; None: it has not yet
    until: float | None = None
    ranking: Ranking | None = None
    first: str | None = None

    def words(self) -> tuple[tuple[str, str], ...]:
        """Node id and outcome of each attempt."""
        return tuple((one.upstream.node.id, one.outcome.word) for one in self.attempts)

    def fallback(self) -> str | None:
        """Why the first choice did not answer, as a word of X-Ollama-Fallback-Reason."""
        ranking = self.ranking
        if ranking is not None and ranking.passed_over is not None:
            return ranking.passed_over
        if ranking is not None and not ranking.known and len(self.attempts) == 1:
            return None  # that nobody has the model is an answer
        words = (one.outcome.word for one in self.attempts)
        return next((word for word in words if word not in _NO_FAILURE), None)

    def vanished(self) -> tuple[tuple[str, float], ...]:
        """Holders that no probe has missed yet, where only other nodes hold it and none is there.

        Each with the wall time of its last answer.
        """
        ends = [(one.upstream, one) for one in self.attempts]
        if any(one.node.local or end.outcome not in _NOT_THERE for one, end in ends):
            return ()
        return tuple(
            (one.node.id, one.health.last_seen_wall or 0.0)
            for one, end in ends
            if one.inventory.had(end.key or "")
        )

    def close(self, keep: Attempt | None = None) -> None:
        """Let go of all attempts but one."""
        for attempt in self.attempts:
            if attempt is not keep:
                attempt.close()


def explain(call: Call, ranking: Ranking, chosen: Candidate | None, trail: Trail) -> None:
    """Say in the log why the call goes where it goes."""
    log.get(__name__).debug(
        "routed",
        id=call.id,
        model=call.model,
        node=chosen.upstream.node.id if chosen is not None else None,
        reason=chosen.reason if chosen is not None else None,
        candidates=" ".join(
            f"{one.upstream.node.id}:{one.reason}:{one.score:.3f}"
            + ":busy" * one.busy
            + ":loaded" * one.loaded
            + (f":{one.model}" if one.model is not None else "")
            for one in ranking.candidates
        ),
        passed_over=ranking.passed_over,
        away=" ".join(node for node, _ in ranking.away),
        tried=" ".join(f"{node}:{word}" for node, word in trail.words()),
    )
