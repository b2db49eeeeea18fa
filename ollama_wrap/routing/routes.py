"""Rules that send a model's calls to endpoints of an operator's choice, and how they are written.

Owns the values and the two forms of `OLLAMA_WRAP_ROUTES`. It must not know which
nodes there are, nor who of them is asked.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ollama_wrap.config.values import NODE_ID, RESERVED_IDS
from ollama_wrap.errors import ConfigError
from ollama_wrap.nodes.names import canonical, is_cloud
from ollama_wrap.nodes.node import whole

VARIABLE = "OLLAMA_WRAP_ROUTES"

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node by its id, `local` or its sidecar's own name; `model`: another name to ask it for."""

    node: str
    weight: int = 100
    priority: int = 0
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls for models whose name matches `pattern` (lower case) go to `endpoints`."""

    pattern: str
    endpoints: tuple[Endpoint, ...]

    def matches(self, spellings: Iterable[str]) -> bool:
        """Whether one of these spellings of a name, in lower case, is meant."""
        return any(fnmatchcase(one, self.pattern) for one in spellings)


def parse_routes(text: str) -> tuple[Rule, ...]:
    """Read `OLLAMA_WRAP_ROUTES`: a comma list of `pattern=endpoint|endpoint…`, or a JSON object.

    An endpoint is `node;name=value;…` or, in JSON, an object with `node` and the
    option names; the first rule that matches holds. Raises ConfigError with every
    problem.
    """
    problems: list[str] = []
    rules: list[Rule] = []
    for pattern, endpoints in _entries(text.strip(), problems):
        found: list[Endpoint] = []
        for number, one in enumerate(endpoints, start=1):
            try:
                found.append(Endpoint(**_declared(_split(one) if isinstance(one, str) else one)))
            except ValueError as error:
                problems.append(f"{VARIABLE}: {pattern!r}, endpoint {number}: {error}")
        if not pattern or not endpoints:
            problems.append(f"{VARIABLE}: {pattern!r}: write pattern=node;model=…;weight=…")
        rules.append(Rule(pattern.lower(), tuple(found)))
    if problems:
        raise ConfigError(problems)
    return tuple(rules)


def _entries(text: str, problems: list[str]) -> Iterator[tuple[str, list[Any]]]:
    """Each pattern and what is said of its endpoints."""
    if not text.startswith("{"):
        for part in filter(None, map(str.strip, text.split(","))):
            pattern, _, endpoints = part.partition("=")
            yield pattern.strip(), [one for one in endpoints.split("|") if one.strip()]
        return
    try:
        value: Fields = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        problems.append(f"{VARIABLE}: starts like JSON and is none that can be read ({error})")
        return
    for pattern, endpoints in value.items():
        yield pattern.strip(), endpoints if isinstance(endpoints, list) else [endpoints]


def _once(pairs: list[tuple[str, Any]]) -> Fields:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name is there twice")
    return made


def _split(entry: str) -> Fields:
    """`node;name=value` as a mapping."""
    node, *options = (part.strip() for part in entry.split(";"))
    pairs = [("node", node)]
    for option in filter(None, options):
        name, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"{option!r} has no value; write name=value")
        pairs.append((name.strip(), value))
    return _once(pairs)


def _declared(entry: object) -> Fields:
    """The fields of an Endpoint that one entry says; raises ValueError."""
    said = entry if isinstance(entry, Mapping) else {}
    if "node" not in said:
        raise ValueError("write a node id, or an object with node")
    fields: Fields = {}
    for name, value in said.items():
        read = _OPTIONS.get(name)
        if read is None:
            raise ValueError(f"{name!r} is no option; there are {', '.join(sorted(_OPTIONS))}")
        fields |= read(value)
    return fields


def _node(value: object) -> Fields:
    text = str(value).strip()
    if text != "local" and (not NODE_ID.fullmatch(text) or text.lower() in RESERVED_IDS):
        raise ValueError(f"node {text!r}: write the id of a node, or local")
    return {"node": text}


def _model(value: object) -> Fields:
    text = str(value).strip()
    if canonical(text) is None:
        raise ValueError(f"model {text!r}: no node takes this for a name")
    if is_cloud(text):
        raise ValueError(f"model {text!r}: a cloud model is asked for under its own name")
    return {"model": text}


_OPTIONS = {
    "node": _node,
    "weight": whole("weight", 1, 10_000),
    "priority": whole("priority", -1_000, 1_000),
    "model": _model,
}
