"""Alone, the sidecar is invisible: what it answers is what stock answers, byte for byte.

Each case is played to one of two equal daemons and, through the sidecar, to the other.
"""

from __future__ import annotations

import pytest

from tests.live.cases import bodies, framing, hosts, inference, paths, store
from tests.live.cases.base import Case
from tests.live.compare import differences
from tests.live.exchange import Address, BrokenOff, Conversation, converse
from tests.live.programs import Program

pytestmark = pytest.mark.live

CASES = (
    *paths.CASES,
    *hosts.CASES,
    *framing.CASES,
    *bodies.CASES,
    *inference.CASES,
    *store.CASES,
)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_twins_answer_alike_so_that_a_difference_is_the_sidecar_s(
    case: Case, daemons: tuple[Program, Program]
) -> None:
    first, second = daemons

    direct, other = play(first.address, case), play(second.address, case)

    found = differences(direct, other)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_client_cannot_tell_the_sidecar_from_stock(
    case: Case, daemons: tuple[Program, Program], sidecar: Program
) -> None:
    direct = play(daemons[0].address, case)

    through = play(sidecar.address, case)

    found = differences(direct, through)
    assert not found, "\n".join(found)


def play(address: Address, case: Case) -> Conversation:
    """Play what comes before the case, then the case; no answer at all is an empty conversation."""
    for script in case.before:
        converse(address, script)
    try:
        return converse(address, case.script)
    except BrokenOff:
        return Conversation((), (), kept=False)
