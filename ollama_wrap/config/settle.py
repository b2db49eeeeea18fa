"""From values to a model: what the model refuses is noted in words and dropped until it stands.

So every problem is said at once, and not only the first. Knows no single setting.
"""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ollama_wrap.config.sources import Found, Given
from ollama_wrap.config.table import Row

Path = tuple[str, ...]
Model = TypeVar("Model", bound=BaseModel)


def settle(model: type[Model], found: Found, table: Mapping[Path, Row]) -> Model:
    """Make the model of the first usable value of each setting."""
    while True:
        try:
            return model.model_validate(_nested(found.given))
        except ValidationError as error:
            refused = _refusals(error, found.given)
            # A refusal that no setting is to blame for is a fault of ours.
            if not refused:
                raise
            for path, sentence in refused.items():
                _drop(found, table[path], sentence)


def _nested(given: Mapping[Path, list[Given]]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for path, values in given.items():
        branch: dict[str, object] = tree
        for key in path[:-1]:
            below = branch.setdefault(key, {})
            assert isinstance(below, dict)  # noqa: S101  paths of rows never cross
            branch = below
        branch[path[-1]] = values[0].value
    return tree


def _refusals(error: ValidationError, given: Mapping[Path, list[Given]]) -> dict[Path, str]:
    """The first sentence for each refused setting."""
    refused: dict[Path, str] = {}
    for item in error.errors(include_url=False):
        steps = tuple(str(step) for step in item["loc"])
        # pydantic's place of an error may lie deeper than the setting does.
        path = next((steps[:end] for end in (2, 1) if steps[:end] in given), None)
        if path is not None:
            refused.setdefault(path, item["msg"].removeprefix("Value error, "))
    return refused


def _drop(found: Found, row: Row, sentence: str) -> None:
    first, *others = found.given.pop(row.path)
    shown = "" if row.secret else f"={first.value!r}"
    text = f"{first.origin}{shown}: {sentence[:1].lower()}{sentence[1:]}"
    # A generic name was meant for another program: what stands behind it holds.
    if not first.soft:
        found.reject(row, text)
        return
    found.warnings.append(f"{text}; not used, {row.name} would be")
    if others:
        found.given[row.path] = others
