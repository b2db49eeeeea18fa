"""Policy: the contract of what orders candidates, and the Candidate that it orders.

A policy gets the candidates of one tier: the router has narrowed them before and
puts the busy ones behind the free ones afterwards. It must not know modes,
digests or tiers.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from ollama_wrap.call import Call
from ollama_wrap.nodes.names import canonical
from ollama_wrap.nodes.upstream import Upstream


class Candidate(Struct, frozen=True):
    """An upstream that could take a call.

    `reason` is a word of X-Ollama-Route-Reason; `score` the expected wait, less is
    better; `conflict`: it has another model under this name than the first choice;
    `model`: the name it is asked for, where a rule says another than the call's.
    """

    upstream: Upstream
    reason: str
    score: float
    busy: bool = False
    loaded: bool = False
    conflict: bool = False
    model: str | None = None

    def key(self, named: str | None) -> str | None:
        """The canonical name of what it is asked for; `named` is that of the call's model."""
        return named if self.model is None else canonical(self.model)


class Policy(Protocol):
    """Orders candidates for a call; made with the dice that it may throw."""

    name: str

    def rank(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """The same candidates, best first. Never called with fewer than two."""
