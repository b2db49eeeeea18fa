"""Alone, the sidecar is invisible: what it answers is what stock answers, byte for byte.

Each case is played to one of two equal daemons and, through the sidecar, to the other.
"""

from __future__ import annotations

import hashlib
import os

import pytest

from tests.live.accepted import ACCEPTED, explained
from tests.live.cases import ALL, play
from tests.live.cases.base import Case, head
from tests.live.compare import differences
from tests.live.exchange import Script, converse
from tests.live.programs import Program

pytestmark = pytest.mark.live


@pytest.mark.parametrize("case", ALL, ids=[case.name for case in ALL])
def test_twins_answer_alike_so_that_a_difference_is_the_sidecar_s(
    case: Case, daemons: tuple[Program, Program]
) -> None:
    first, second = daemons

    direct, other = play(first.address, case), play(second.address, case)

    found = differences(direct, other)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("case", ALL, ids=[case.name for case in ALL])
def test_client_cannot_tell_the_sidecar_from_stock(
    case: Case, daemons: tuple[Program, Program], sidecar: Program
) -> None:
    direct = play(daemons[0].address, case)

    through = play(sidecar.address, case)

    found = differences(direct, through)
    assert explained(case.name, found, ACCEPTED), "\n".join(found)


def test_new_blob_that_waits_for_the_word_is_taken(
    daemons: tuple[Program, Program], sidecar: Program
) -> None:
    """No case: it differs once the blob is there. This is how curl uploads."""
    content = os.urandom(64)
    target = f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}"
    rows = head("POST", target, "Content-Length: 64", "Expect: 100-continue") + b"\r\n"
    upload = Script(rows, after_continue=content)

    direct = converse(daemons[0].address, upload)
    through = converse(sidecar.address, upload)

    assert (direct.answers[0].status, len(direct.interim)) == (201, 1)
    assert differences(direct, through) == []


def test_accepted_differences_are_of_cases_that_exist() -> None:
    assert set(ACCEPTED) <= {case.name for case in ALL}
