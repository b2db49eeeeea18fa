"""least-latency: the shortest smoothed service time; who has none yet comes first."""

from collections.abc import Sequence
from random import Random

from ollama_wrap.call import Call
from ollama_wrap.routing.policies.base import Candidate


class LeastLatency:
    """Follows what calls took lately; ties at random."""

    name = "least-latency"

    def __init__(self, dice: Random) -> None:
        self._dice = dice

    def rank(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        order = self._dice.sample(candidates, len(candidates))
        order.sort(key=lambda one: one.upstream.latency or 0.0)
        return order
