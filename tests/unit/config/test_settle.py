import pytest
from pydantic import BaseModel, Field, ValidationError

from ollama_wrap.config.settle import settle
from ollama_wrap.config.sources import Found
from ollama_wrap.config.table import Trait, rows, setting
from ollama_wrap.config.values import Positive


class Oven(BaseModel):
    shelves: Positive = setting("2", "How many.", soft=("SHELVES",))
    code: Positive = setting("1", "The lock's code.", traits=Trait.SECRET)
    recipe: Positive = setting("3", "Which one.", traits=Trait.GENTLE)


class Kitchen(BaseModel):
    oven: Oven = Oven()


class Strict(BaseModel):
    cook: str = Field(min_length=1)


TABLE = {row.path: row for row in rows(Kitchen)}
SHELVES, CODE, RECIPE = TABLE


def found(*given: tuple[tuple[str, ...], str, bool]) -> Found:
    made = Found()
    for path, value, soft in given:
        made.add(TABLE[path], value, "X", soft=soft)
    return made


def test_first_value_wins() -> None:
    kitchen = settle(Kitchen, found((SHELVES, "5", False), (SHELVES, "6", False)), TABLE)

    assert kitchen.oven.shelves == 5


def test_refused_values_are_all_noted_and_the_defaults_hold() -> None:
    given = found((SHELVES, "none", False), (CODE, "none", False))

    kitchen = settle(Kitchen, given, TABLE)

    assert (kitchen.oven.shelves, kitchen.oven.code) == (2, 1)
    assert len(given.problems) == 2
    assert given.problems[0].startswith("X='none': input should be a valid integer")


def test_refused_secret_is_not_said() -> None:
    given = found((CODE, "-12", False))

    settle(Kitchen, given, TABLE)

    assert given.problems == ["X: input should be greater than or equal to 1"]


def test_refused_gentle_value_is_a_fault() -> None:
    given = found((RECIPE, "soup", False))

    settle(Kitchen, given, TABLE)

    assert (len(given.faults), given.problems) == (1, [])


def test_refused_generic_name_leaves_the_next_value() -> None:
    given = found((SHELVES, "top", True), (SHELVES, "4", False))

    kitchen = settle(Kitchen, given, TABLE)

    assert kitchen.oven.shelves == 4
    assert (len(given.warnings), given.problems) == (1, [])


def test_model_that_cannot_stand_by_itself_is_our_fault() -> None:
    with pytest.raises(ValidationError):
        settle(Strict, Found(), {})
