"""What follows from settings that were read anew: what holds now, what waits for a restart.

Pure; it must not know how settings are read, nor who obeys them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ollama_wrap.config.settings import Settings
from ollama_wrap.config.table import Row, Trait, rows


@dataclass(frozen=True, slots=True)
class Anew:
    """The outcome of a reading; `changed` and `restart` are keys as YAML has them.

    `settings` is what holds from now on. `read` is what the next reading is compared
    with: where a change waits for a restart, still the value of the start.
    """

    settings: Settings
    read: Settings
    changed: tuple[str, ...]
    restart: tuple[str, ...]


def compare(read: Settings, running: Settings, new: Settings) -> Anew:
    """What `new` changes of what was `read` last.

    `running` may differ from both: a port that the system chose, an address that was
    typed. What no file has changed stays as it runs.
    """
    taken: dict[tuple[str, ...], object] = {}
    changed: list[str] = []
    restart: list[str] = []
    for row in rows(Settings):
        value = value_of(new, row)
        if value == value_of(read, row):
            continue
        if Trait.FIXED in row.traits:
            restart.append(row.key)
        else:
            taken[row.path] = value
            changed.append(row.key)
    said = {"warnings": new.warnings, "faults": new.faults}
    return Anew(
        settings=_altered(running, taken).model_copy(update=said),
        read=_altered(read, taken).model_copy(update=said),
        changed=tuple(changed),
        restart=tuple(restart),
    )


def value_of(settings: Settings, row: Row) -> object:
    """The value of one setting."""
    value: Any = settings
    for key in row.path:
        value = getattr(value, key)
    return value


def _altered(settings: Settings, values: Mapping[tuple[str, ...], object]) -> Settings:
    groups: dict[str, dict[str, object]] = {}
    update: dict[str, object] = {}
    for path, value in values.items():
        if len(path) > 1:
            groups.setdefault(path[0], {})[path[1]] = value
        else:
            update[path[0]] = value
    for name, fields in groups.items():
        update[name] = getattr(settings, name).model_copy(update=fields)
    return settings.model_copy(update=update)
