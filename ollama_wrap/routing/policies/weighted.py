"""weighted: turns in proportion to the nodes' weights, as evenly spaced as they can be."""

from collections.abc import Sequence
from random import Random

from ollama_wrap.call import Call
from ollama_wrap.routing.policies.base import Candidate


class Weighted:
    """Each ranking credits every node its weight; who has most is first and pays for all."""

    name = "weighted"

    def __init__(self, dice: Random) -> None:
        self._credit: dict[str, float] = {}

    def rank(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        credit, total = self._credit, 0
        for candidate in candidates:
            node = candidate.upstream.node
            credit[node.id] = credit.get(node.id, 0.0) + node.weight
            total += node.weight
        order = sorted(candidates, key=lambda one: -credit[one.upstream.node.id])
        # A busy node is passed over, so it does not pay; its credit may not grow for ever.
        first = next((one for one in order if not one.busy), order[0])
        credit[first.upstream.node.id] -= total
        for candidate in candidates:
            name = candidate.upstream.node.id
            credit[name] = max(-float(total), min(float(total), credit[name]))
        return order
