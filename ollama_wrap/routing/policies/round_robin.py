"""round-robin: who was first longest ago is first now."""

from collections.abc import Sequence
from itertools import count
from random import Random

from ollama_wrap.call import Call
from ollama_wrap.routing.policies.base import Candidate


class RoundRobin:
    """Turns by node id, so that they go round in every group of candidates, however it changes."""

    name = "round-robin"

    def __init__(self, dice: Random) -> None:
        self._turns = count(1)
        self._last: dict[str, int] = {}

    def rank(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        order = sorted(candidates, key=lambda one: self._last.get(one.upstream.node.id, 0))
        # A busy node is passed over, so it keeps its turn.
        first = next((one for one in order if not one.busy), order[0])
        self._last[first.upstream.node.id] = next(self._turns)
        return order
