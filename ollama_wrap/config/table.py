"""A setting as a row: its names, default and sentence, in one place.

The models of `groups.py` declare their fields with `setting`; from the rows come
the reading of the environment, `env.example` and `docs/settings.md`. This file
knows no single setting.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

PREFIX = "OLLAMA_WRAP_"


class Trait(Flag):
    """What sets a setting apart.

    A SECRET is never shown and can be given as `<name>_FILE`. A GENTLE one never refuses
    a start: a value that cannot be used is a fault, and the mode is `local`. An UNUSED one
    is read and shown, and nothing obeys it: the start says so where it is given. A FIXED
    one holds as long as the process: a reload says that it waits for a restart.
    """

    PLAIN = 0
    SECRET = auto()
    GENTLE = auto()
    UNUSED = auto()
    FIXED = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """One setting.

    `path` leads to the field (`("cache", "ttl")`), which is also its place in YAML.
    `names` are its variables, the one that wins first; `soft` are those among them that
    other programs use too: a value there that we cannot use is a warning.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    default: str
    sentence: str
    soft: tuple[str, ...]
    traits: Trait

    @property
    def secret(self) -> bool:
        return Trait.SECRET in self.traits

    @property
    def unused(self) -> bool:
        return Trait.UNUSED in self.traits

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def key(self) -> str:
        """Its place in YAML, with dots."""
        return ".".join(self.path).removesuffix(".text")


def setting(
    default: object,
    sentence: str,
    *names: str,
    soft: tuple[str, ...] = (),
    shown: str | None = None,
    traits: Trait = Trait.PLAIN,
) -> Any:  # noqa: ANN401  as pydantic's Field: the annotation beside it is the type
    """Declare a field of a settings model.

    `default` is written as a user would write it, and parsed alike. `names` replace the
    variable that follows from the path; `soft` adds generic ones after them. `shown`
    stands for the default in documents.
    """
    columns: dict[str, Any] = {"names": names, "soft": soft, "shown": shown, "traits": traits}
    return Field(
        default=default,
        description=sentence,
        json_schema_extra=columns,
        validate_default=True,
        repr=Trait.SECRET not in traits,
    )


def rows(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[Row]:
    """Every setting of a model and of the models in it, in the order they are written."""
    for name, field in model.model_fields.items():
        path = (*above, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from rows(field.annotation, path)
        # What is no setting, such as what was noted while reading, has no columns.
        elif isinstance(field.json_schema_extra, dict) and "traits" in field.json_schema_extra:
            yield _row(path, field, field.json_schema_extra)


def _row(path: tuple[str, ...], field: FieldInfo, columns: Mapping[str, Any]) -> Row:
    own = columns["names"] or (PREFIX + "_".join(path).upper(),)
    shown = columns["shown"]
    return Row(
        path=path,
        names=(*own, *columns["soft"]),
        default=_written(field.default) if shown is None else shown,
        sentence=field.description or "",
        soft=columns["soft"],
        traits=columns["traits"],
    )


def _written(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return str(default)
