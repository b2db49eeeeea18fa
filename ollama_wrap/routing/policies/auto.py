"""auto: loaded and free, then free, then the shortest wait."""

from collections.abc import Sequence
from random import Random

from ollama_wrap.call import Call
from ollama_wrap.nodes.names import canonical
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.policies.two_choices import spread


class Auto:
    """Spares loads of models first, waits second; ties go to the better of two at random."""

    name = "auto"

    def __init__(self, dice: Random) -> None:
        self._dice = dice

    def rank(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        key = canonical(call.model) if call.model else None
        classes: dict[int, list[Candidate]] = {}
        for candidate in candidates:
            classes.setdefault(_grade(candidate, key), []).append(candidate)
        order: list[Candidate] = []
        for grade in sorted(classes):
            order += spread(classes[grade], self._dice)
        return order


def _grade(candidate: Candidate, key: str | None) -> int:
    """0: loaded, or being loaded for another call; 1: not; 2: loads slowly; 3: busy."""
    if candidate.busy:
        return 3
    if candidate.loaded or candidate.upstream.running(key):
        return 0
    upstream = candidate.upstream
    return 2 if upstream.slow_disk or upstream.loading_other(key) else 1
