"""The table of settings as text: env.example, docs/settings.md, and what is in force.

A test compares the two files with what is written here.
"""

from collections.abc import Iterator
from inspect import getdoc
from itertools import groupby

from pydantic import SecretStr

from ollama_wrap.config import Row, Settings, rows
from ollama_wrap.config.anew import value_of
from ollama_wrap.config.table import Trait

_PAGE = """\
# Settings

Written by `ollama-wrap config docs`. Sources, the first one wins: the process environment; `.env`
in the working folder, or the file named by `--env-file` or `OLLAMA_WRAP_ENV_FILE`; `node.yaml`
(this host) and `config.yaml` (the same on all hosts), both in `OLLAMA_WRAP_CONFIG_DIR`; defaults.
In YAML a setting stands under its key: `cache.ttl` is `cache: {ttl: 5m}`.

Durations are seconds, or `250ms`, `10s`, `5m`, `1h30m`; sizes bytes, or `64KiB`, `32MiB`, `1GiB`;
lists have commas. A variable that is empty is not set. A setting marked *file* can also be given
as the path of a file, in the variable with `_FILE` behind it. Names marked *shared* belong to other
programs too: a value that cannot be used there is a warning. Those marked *unused* are read and
shown, and nothing obeys them yet: the start names those that are set.

SIGHUP and `POST /admin/reload` read the files anew (`.env`, both YAML files, and those that a
`_FILE` names), never the environment, and all of it holds from then on, or nothing of it. Only what
is marked *restart* waits for one; answer and log name it where it differs.

Anything else that cannot be used ends the start with exit code 78, all of it at once. Only nodes,
routes and the store never do: they are an error in the log, and the mode is `local`. A name that
begins with `OLLAMA_WRAP_` and is not listed here is a warning. `OLLAMA_HOST` is stock's and is not
read.
"""


def env_example() -> str:
    """Every setting as a commented line with its default, so that a copy changes nothing."""
    lines = ["# Every setting with its default; written by `ollama-wrap config env`.", ""]
    for heading, members in _groups():
        lines.append(f"# ---- {heading}")
        for row in members:
            others = f" (also {', '.join(row.names[1:])})" if row.names[1:] else ""
            unused = " Not used yet." if row.unused else ""
            lines.append(f"# {row.sentence}{others}{unused}")
            # A default in words, such as the host name, is no value that could be set.
            written = row.default if _literal(row) else ""
            lines.append(f"#{row.name}={written}")
        lines.append("")
    return "\n".join(lines)


def settings_page() -> str:
    """The page of all settings, in Markdown."""
    lines = [_PAGE]
    for heading, members in _groups():
        lines += [f"## {heading}", "", "| variable | in YAML | default | meaning |"]
        lines.append("|---|---|---|---|")
        for row in members:
            default = f"`{row.default}`" if _literal(row) and row.default else row.default
            lines.append(f"| {_names(row)} | `{row.key}` | {default} | {row.sentence} |")
        lines.append("")
    return "\n".join(lines)


def in_force(settings: Settings) -> str:
    """Every setting with the value that holds; `*` marks what is not the default."""
    plain = Settings()
    lines: list[str] = []
    for row in rows(Settings):
        value = value_of(settings, row)
        mark = " " if value == value_of(plain, row) else "*"
        lines.append(f"{mark} {row.name}={_hidden(value) if row.secret else _text(value)}")
    return "\n".join(lines) + "\n"


def _groups() -> Iterator[tuple[str, Iterator[Row]]]:
    def group(row: Row) -> str:
        return row.path[0] if len(row.path) > 1 else ""

    for name, members in groupby(rows(Settings), group):
        model = Settings.model_fields[name].annotation if name else None
        heading = getdoc(model) if model else "The modes, and who may do what"
        yield (heading or name).rstrip("."), members


def _names(row: Row) -> str:
    def one(name: str) -> str:
        return f"`{name}`" + (" *shared*" if name in row.soft else "")

    marks = " *file*" * row.secret + " *unused*" * row.unused
    marks += " *restart*" * (Trait.FIXED in row.traits)
    return "<br>".join(map(one, row.names)) + marks


def _literal(row: Row) -> bool:
    """Whether the default could be typed as it is written."""
    return " " not in row.default and row.default != "unset"


def _hidden(value: object) -> str:
    return "(set)" if isinstance(value, SecretStr) or value else ""


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)
