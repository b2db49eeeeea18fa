"""Where values come from: process environment, `.env`, `node.yaml`, `config.yaml`, in this order.

The only code that reads the environment. It knows rows, not what they mean: whether a
value can be used is decided when the models are made.
"""

import difflib
import os
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from dotenv import dotenv_values

from ollama_wrap.config.table import PREFIX, Row, Trait

ENV_FILE = PREFIX + "ENV_FILE"
CONFIG_DIR = PREFIX + "CONFIG_DIR"
APP = "ollama_wrap"
#: sd_listen_fds(3): the first file that is passed
FIRST_PASSED = 3
# Read by the test-suite, or here before there is a row.
_NO_ROWS = frozenset({ENV_FILE, PREFIX + "TEST_OLLAMA"})


@dataclass(frozen=True, slots=True)
class Given:
    """A value and who gave it; `soft` if that name belongs to other programs too."""

    value: object
    origin: str
    soft: bool = False


@dataclass(slots=True)
class Found:
    """What all sources said. The first value of a path wins; the others stand behind it."""

    given: dict[tuple[str, ...], list[Given]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    config_dir: Path = Path()
    environ: Mapping[str, str] = field(default_factory=dict)

    def add(self, row: Row, value: object, origin: str, *, soft: bool = False) -> None:
        self.given.setdefault(row.path, []).append(Given(value, origin, soft))

    def reject(self, row: Row, sentence: str) -> None:
        """Note a value that cannot be used, as the row wants it."""
        (self.faults if Trait.GENTLE in row.traits else self.problems).append(sentence)


def read(
    table: Sequence[Row], environ: Mapping[str, str] | None, env_file: str | Path | None
) -> Found:
    """Ask every source; `environ` None is this process's, and only then `./.env` is looked for."""
    found = Found(environ=os.environ if environ is None else environ)
    named = env_file or found.environ.get(ENV_FILE)
    dotenv = _read_dotenv(found, named, look=environ is None)
    # In this order the first value of a setting is the one that wins.
    _take_variables(found, table, found.environ, "")
    _take_variables(found, table, dotenv, f" in {named or '.env'}")
    found.environ = {**dotenv, **found.environ}
    folder = found.environ.get(CONFIG_DIR)
    found.config_dir = Path(folder) if folder else config_folder(found.environ)
    # The host's own file comes before the one that all hosts share.
    for name in ("node.yaml", "config.yaml"):
        _take_yaml(found, table, found.config_dir / name)
    return found


def _read_dotenv(found: Found, named: str | Path | None, *, look: bool) -> dict[str, str]:
    path = Path(named or ".env")
    if not (named or look):
        return {}
    try:
        if not path.is_file():
            if named:
                found.problems.append(f"{ENV_FILE}={str(named)!r}: no such file; name one, or none")
            return {}
        # A `$` in a secret is a `$`.
        values = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        found.problems.append(f"{ENV_FILE}={str(path)!r}: cannot be read: {error}")
        return {}
    return {name: value for name, value in values.items() if value is not None}


def _take_variables(
    found: Found, table: Sequence[Row], variables: Mapping[str, str], where: str
) -> None:
    for row in table:
        first: str | None = None
        for name in row.names:
            value = _variable(found, row, name, variables, where)
            if not value:
                continue
            found.add(row, value, name + where, soft=name in row.soft)
            # A generic name with another value is another program's affair.
            if first and value != first and name not in row.soft:
                found.warnings.append(f"{name}{where} differs from {row.name}, which wins")
            first = first or value
    _warn_of_unknown(found, table, variables, where)


def _variable(found: Found, row: Row, name: str, variables: Mapping[str, str], where: str) -> str:
    value = variables.get(name, "").strip()
    path = variables.get(f"{name}_FILE", "").strip() if row.secret else ""
    if value and path:
        found.warnings.append(f"{name}_FILE{where} is not read: {name} is set")
    if value or not path:
        return value
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        found.reject(row, f"{name}_FILE={path!r}{where}: cannot be read: {error}")
        return ""


def passed_files(environ: MutableMapping[str, str] | None = None) -> range:
    """Numbers of the open files that a supervisor passed to this process, as systemd does.

    What says so is taken out of the environment: a child must not take them for its own.
    """
    found = os.environ if environ is None else environ
    told = [found.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")]
    process, count = told[:2]
    if process != str(os.getpid()) or not count.isdigit():
        return range(0)
    return range(FIRST_PASSED, FIRST_PASSED + int(count))


def besides(table: Iterable[Row], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without any setting of ours: for a program that is given its own."""
    known = {name for row in table for name in (*row.names, *(f"{one}_FILE" for one in row.names))}
    found = os.environ if environ is None else environ
    return {
        name: value
        for name, value in found.items()
        if name not in known and not name.startswith(PREFIX)
    }


def _warn_of_unknown(
    found: Found, table: Iterable[Row], variables: Mapping[str, str], where: str
) -> None:
    known = set(_NO_ROWS)
    for row in table:
        known.update(row.names)
        if row.secret:
            known.update(f"{name}_FILE" for name in row.names)
    # A prefix in common would make every name look like every other.
    spellings = {one.removeprefix(PREFIX).removeprefix("OLLAMA_"): one for one in known}
    for name in sorted(variables):
        if name.startswith(PREFIX) and name not in known:
            near = _did_you_mean(name.removeprefix(PREFIX), spellings)
            found.warnings.append(f"{name}{where} is not a setting{near}")


def _did_you_mean(name: str, spellings: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, spellings, 1, 0.75)
    return f"; did you mean {spellings[near[0]]}?" if near else ""


def _take_yaml(found: Found, table: Sequence[Row], path: Path) -> None:
    try:
        # A folder that may not be looked into is a mistake; one without the file is none.
        if not path.is_file():
            return
        content = yaml.safe_load(path.read_text("utf-8"))
    # Dates that are none are a ValueError, too many brackets a RecursionError.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        found.problems.append(f"{path}: cannot be read: {_why(error)}")
        return
    if content is None:
        return
    if not isinstance(content, dict):
        found.problems.append(f"{path}: write keys and values, such as cache: {{ttl: 5m}}")
        return
    # The folder was needed to find this file.
    rows = {row.path: row for row in table if row.name != CONFIG_DIR}
    # People leave the group out, or write it whole.
    spellings = {one[-1]: ".".join(one) for one in rows}
    spellings |= {dotted: dotted for dotted in spellings.values()}
    for keys, value in _leaves(content, (), rows):
        row = rows.get(keys)
        dotted = ".".join(keys)
        if row is None:
            near = _did_you_mean(dotted, spellings)
            found.warnings.append(f"{path.name}: {dotted} is not a setting{near}")
        elif value is not None:
            found.add(row, value, f"{path.name}: {dotted}")


def _why(error: Exception) -> str:
    """What is wrong with a file, and where. Not its own text: a secret may stand there."""
    if isinstance(error, OSError | UnicodeDecodeError):
        return str(error)
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return "a value in it is none that YAML knows"
    mark = error.problem_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}"
    # The other sorts name what they stumble over.
    named = isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError)
    return f"{where}: {error.problem}" if named else where


def _leaves(
    branch: Mapping[object, object], above: tuple[str, ...], rows: Mapping[tuple[str, ...], Row]
) -> Iterable[tuple[tuple[str, ...], object]]:
    for key, value in branch.items():
        keys = (*above, str(key))
        # Nodes and routes may be written as YAML; they are read elsewhere, as text.
        if (*keys, "text") in rows and not (isinstance(value, dict) and "text" in value):
            yield (*keys, "text"), value
        elif isinstance(value, dict) and keys not in rows:
            yield from _leaves(value, keys, rows)
        else:
            yield keys, value


def config_folder(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """The platform's folder for settings."""
    windows, unix = ("APPDATA", "AppData/Roaming"), ("XDG_CONFIG_HOME", ".config")
    return _folder(environ, platform, windows, unix)


def state_folder(environ: Mapping[str, str], port: int, platform: str = sys.platform) -> Path:
    """The platform's folder for the state of the sidecar that listens on `port`."""
    windows, unix = ("LOCALAPPDATA", "AppData/Local"), ("XDG_STATE_HOME", ".local/state")
    return _folder(environ, platform, windows, unix) / str(port)


def _folder(
    environ: Mapping[str, str], platform: str, windows: tuple[str, str], unix: tuple[str, str]
) -> Path:
    """Where the variable says, else below home; macOS has no variable for it."""
    mac = ("", "Library/Application Support")
    variable, below_home = {"win32": windows, "darwin": mac}.get(platform, unix)
    named = environ.get(variable)
    if named:
        return Path(named) / APP
    home = environ.get("HOME") or environ.get("USERPROFILE") or "~"
    return Path(home).expanduser() / below_home / APP
