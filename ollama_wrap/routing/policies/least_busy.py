"""least-busy: the fewest calls for each slot; ties at random."""

from collections.abc import Sequence
from random import Random

from ollama_wrap.call import Call
from ollama_wrap.nodes.names import canonical
from ollama_wrap.routing.policies.base import Candidate


class LeastBusy:
    """Counts calls; knows nothing of how fast a node is."""

    name = "least-busy"

    def __init__(self, dice: Random) -> None:
        self._dice = dice

    def rank(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        key = canonical(call.model) if call.model else None
        order = self._dice.sample(candidates, len(candidates))
        order.sort(key=lambda one: one.upstream.load / one.upstream.slots(key)[0])
        return order
