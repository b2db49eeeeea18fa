"""two-choices: of two at random the one with the shorter wait; then the others by wait.

Sidecars that do not know of each other's calls would all pick the one best node;
two dice spread them almost as well as knowing would.
"""

from collections.abc import Sequence
from random import Random

from ollama_wrap.call import Call
from ollama_wrap.routing.policies.base import Candidate


class TwoChoices:
    """Random enough not to herd, and never the longest wait of all."""

    name = "two-choices"

    def __init__(self, dice: Random) -> None:
        self._dice = dice

    def rank(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return spread(candidates, self._dice)


def spread(candidates: Sequence[Candidate], dice: Random) -> list[Candidate]:
    """The better of two at random first, the others by score; equals in any order."""
    size, throw = len(candidates), dice.random
    if size == 1:
        return list(candidates)
    order = [one for *_, one in sorted((one.score, throw(), one) for one in candidates)]
    # Two different places in the sorted list: the nearer one is the better of the two.
    one, other = int(throw() * size), int(throw() * (size - 1))
    first = min(one, other if other < one else other + 1)
    order.insert(0, order.pop(first))
    return order
