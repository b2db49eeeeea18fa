"""random: any order, each as likely as the next."""

from collections.abc import Sequence
from random import Random

from ollama_wrap.call import Call
from ollama_wrap.routing.policies.base import Candidate


class Shuffled:
    """Knows nothing and needs nothing."""

    name = "random"

    def __init__(self, dice: Random) -> None:
        self._dice = dice

    def rank(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        return self._dice.sample(candidates, len(candidates))
