import pytest

from ollama_wrap.call import Mode
from ollama_wrap.nodes.mode import ModeReason, decide

LOCAL, SPREAD, ALONE = Mode.LOCAL, Mode.DISTRIBUTED, Mode.STANDALONE


Facts = tuple[bool | None, bool, Mode | None, bool, bool]


@pytest.mark.parametrize(
    "facts, mode, reason",
    [
        ((None, False, None, False, False), LOCAL, "no-nodes"),
        ((None, False, None, True, True), SPREAD, "setting"),
        ((None, False, None, True, False), ALONE, "no-node-answers"),
        ((True, False, None, False, False), LOCAL, "no-nodes"),
        ((True, False, None, True, True), SPREAD, "setting"),
        ((False, False, None, True, True), LOCAL, "setting"),
        ((None, True, None, True, True), ALONE, "setting"),
        ((False, True, None, False, False), ALONE, "setting"),
        ((False, True, SPREAD, True, True), SPREAD, "admin"),
        ((False, True, SPREAD, True, False), ALONE, "no-node-answers"),
        ((False, False, SPREAD, False, False), LOCAL, "no-nodes"),
        ((True, False, LOCAL, True, True), LOCAL, "admin"),
        ((True, False, ALONE, True, True), ALONE, "admin"),
    ],
)
def test_mode_and_its_reason(facts: Facts, mode: Mode, reason: str) -> None:
    distributed, standalone, choice, known, answers = facts

    held = decide(
        distributed=distributed,
        standalone=standalone,
        choice=choice,
        known=known,
        answers=answers,
    )

    assert held == (mode, ModeReason(reason))
