"""What is told of a call that was at several nodes."""

from dataclasses import dataclass
from typing import cast

import pytest

from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy import outcome
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.outcome import Outcome
from ollama_wrap.proxy.responders.trail import Trail
from ollama_wrap.routing.router import Ranking
from tests.fakes.nodes import WALL, key, upstream


@dataclass
class Tried:
    """The facts of an attempt that has ended."""

    upstream: Upstream
    outcome: Outcome
    key: str | None
    closed: bool = False

    def close(self) -> None:
        self.closed = True


def trail(*ends: tuple[str, Outcome], **facts: object) -> Trail:
    attempts = [Tried(upstream(node), end, key("m")) for node, end in ends]
    made = Trail(cast("list[Attempt]", attempts))
    made.ranking = Ranking((), key("m"), **facts)  # type: ignore[arg-type]
    return made


R1, R2 = "r1=h1", "r2=h2"


@pytest.mark.parametrize(
    "made, reason",
    [
        (trail((R1, outcome.SERVED)), None),
        (trail((R1, outcome.CONNECT), (R2, outcome.SERVED)), "connect"),
        (trail((R1, outcome.BUSY), (R2, outcome.OOM), (R1, outcome.SERVED)), "oom"),
        (trail((R1, outcome.BUSY), (R2, outcome.SERVED)), None),
        (trail((R1, outcome.SERVED), passed_over="node-down"), "node-down"),
        (trail((R1, outcome.MISSING), known=False), None),
    ],
)
def test_reason_is_why_the_first_choice_did_not_answer(made: Trail, reason: str | None) -> None:
    assert made.fallback() == reason


def test_words_are_in_order() -> None:
    made = trail((R1, outcome.BUSY), (R2, outcome.RESET), (R1, outcome.SERVED))

    assert made.words() == (("r1", "busy"), ("r2", "reset"), ("r1", "served"))


def test_holders_that_are_not_there_are_named_with_their_last_answer() -> None:
    away = trail((R1, outcome.CONNECT), (R2, outcome.TIMEOUT))

    assert away.vanished() == (("r1", WALL), ("r2", WALL))
    assert trail((R1, outcome.CONNECT), (R2, outcome.RESET)).vanished() == ()
    assert trail((R1, outcome.CONNECT), ("local", outcome.CONNECT)).vanished() == ()


def test_all_attempts_but_the_kept_one_are_let_go() -> None:
    made = trail((R1, outcome.BUSY), (R2, outcome.SERVED), (R1, outcome.BUSY))
    attempts = cast("list[Tried]", made.attempts)

    made.close(keep=made.attempts[1])
    kept = [one.closed for one in attempts]
    made.close()

    assert kept == [True, False, True]
    assert all(one.closed for one in attempts)
