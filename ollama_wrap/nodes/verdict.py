"""What the end of an attempt says of its node: whom it counts against, and whether it was good."""

from dataclasses import dataclass
from enum import StrEnum


class Blame(StrEnum):
    """What an outcome counts against."""

    NONE = "none"
    NODE = "node"
    MODEL = "model"
    #: out of memory while loading, or a stalled load
    MODEL_DOUBLE = "model-double"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an attempt said of its node. `suspect`: look at it now."""

    blame: Blame = Blame.NONE
    success: bool = False
    suspect: bool = False
