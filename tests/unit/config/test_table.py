from pydantic import BaseModel

from ollama_wrap.config.table import Trait, rows, setting
from ollama_wrap.config.values import Seconds


class Oven(BaseModel):
    heat: Seconds = setting("10s", "How long it heats.")
    label: str = setting("", "What it says.", "LABEL", soft=("NAME",), traits=Trait.SECRET)
    lit: bool = setting(True, "Is it on?", shown="mostly")
    note: str = "not a setting"


class Kitchen(BaseModel):
    oven: Oven = Oven()
    cook: str | None = setting(None, "Who cooks.")


def test_row_follows_from_its_place() -> None:
    heat = next(rows(Kitchen))

    assert heat.path == ("oven", "heat")
    assert heat.names == ("OLLAMA_WRAP_OVEN_HEAT",)
    assert (heat.default, heat.sentence) == ("10s", "How long it heats.")


def test_rows_come_in_the_order_they_are_written_and_only_settings() -> None:
    paths = [row.path[-1] for row in rows(Kitchen)]

    assert paths == ["heat", "label", "lit", "cook"]


def test_generic_names_stand_behind_our_own() -> None:
    label = list(rows(Kitchen))[1]

    assert label.names == ("LABEL", "NAME")
    assert label.soft == ("NAME",)
    assert label.secret


def test_default_can_be_said_in_words() -> None:
    _, _, lit, cook = rows(Kitchen)

    assert lit.default == "mostly"
    assert cook.default == ""


def test_defaults_are_parsed_like_values() -> None:
    assert Oven().heat == 10.0


def test_secrets_are_not_in_the_repr() -> None:
    assert "hush" not in repr(Oven(label="hush"))
