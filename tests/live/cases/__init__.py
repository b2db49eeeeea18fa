"""What is played to a stock Ollama and, through the sidecar, to its twin."""

from __future__ import annotations

from tests.live.cases import bodies, framing, hosts, inference, odd, paths, store
from tests.live.cases.base import Case
from tests.live.exchange import Address, BrokenOff, Conversation, converse

ALL: tuple[Case, ...] = (
    *paths.CASES,
    *hosts.CASES,
    *framing.CASES,
    *bodies.CASES,
    *inference.CASES,
    *store.CASES,
    *odd.CASES,
)


def play(address: Address, case: Case) -> Conversation:
    """Play what comes before the case, then the case; no answer at all is an empty conversation."""
    for script in case.before:
        converse(address, script)
    try:
        return converse(address, case.script, *case.then)
    except BrokenOff:
        return Conversation((), (), kept=False)
