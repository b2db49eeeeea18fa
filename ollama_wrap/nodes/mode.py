"""Which Mode holds, and why, as a table.

Owns the rule alone: an operator's choice beats the settings, and nodes that are
not known or do not answer beat the wish to use them. It must not know where the
choice is stored, nor how nodes are probed.
"""

from enum import StrEnum

from ollama_wrap.call import Mode


class ModeReason(StrEnum):
    """Who or what decided."""

    ADMIN = "admin"
    SETTING = "setting"
    NO_NODES = "no-nodes"
    NO_NODE_ANSWERS = "no-node-answers"


def wanted(
    *, distributed: bool | None, standalone: bool, choice: Mode | None
) -> tuple[Mode, ModeReason]:
    """What is asked for: by the stored choice, else by the two settings."""
    if choice is not None:
        return choice, ModeReason.ADMIN
    if standalone:
        return Mode.STANDALONE, ModeReason.SETTING
    return Mode.LOCAL if distributed is False else Mode.DISTRIBUTED, ModeReason.SETTING


def decide(
    *, distributed: bool | None, standalone: bool, choice: Mode | None, known: bool, answers: bool
) -> tuple[Mode, ModeReason]:
    """The Mode that holds.

    `distributed` and `standalone` are the settings, `choice` is what an admin
    set; `known`: another node is known; `answers`: one of them is not down.
    """
    mode, reason = wanted(distributed=distributed, standalone=standalone, choice=choice)
    if mode is not Mode.DISTRIBUTED or (known and answers):
        return mode, reason
    if known:
        return Mode.STANDALONE, ModeReason.NO_NODE_ANSWERS
    return Mode.LOCAL, ModeReason.NO_NODES
