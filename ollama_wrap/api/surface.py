"""What a surface of ours is made of: rows that name method, path, scope and what answers.

A surface is a table of rows; `own` puts each behind the door. This file must not
know what any row answers.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ollama_wrap.api.shapes import Fingerprint
from ollama_wrap.call import Call
from ollama_wrap.clock import Clock
from ollama_wrap.cluster.choices import Choices
from ollama_wrap.config import Anew
from ollama_wrap.errors import BadCall
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.observe.metrics import Metrics
from ollama_wrap.observe.pressure import Strain
from ollama_wrap.proxy.running import Running
from ollama_wrap.state.base import Store

JSON = b"application/json"


class Scope(StrEnum):
    """Who may use a route: everybody, or what the method of `Scopes` of that name says."""

    OPEN = "open"
    READ = "read"
    REQUESTS = "requests"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class About:
    """What does not change while the process runs.

    `listen` are bound addresses as `host:port`, `store` is the word of the store's
    kind, `started` is monotonic seconds.
    """

    node_id: str
    boot: str
    version: str
    listen: tuple[str, ...]
    store: str
    started: float


@dataclass(frozen=True, slots=True)
class Parts:
    """What the surfaces read and change.

    `ready`: the local Ollama was asked once. `draining`: the process takes no new calls.
    `reload()` raises ConfigError. `pinged()` is called when another sidecar has asked how we are.
    """

    about: About
    fleets: Fleets
    choices: Choices
    metrics: Metrics
    running: Running
    store: Store
    clock: Clock
    ready: Callable[[], bool]
    draining: Callable[[], bool]
    pinged: Callable[[], None] = lambda: None
    #: reads the settings anew; None: there is nothing to read
    reload: Callable[[], Awaitable[Anew]] | None = None
    strain: Strain = field(default_factory=Strain)
    fingerprint: Fingerprint = field(default_factory=Fingerprint)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that may be answered: `params` are from its path, `body` is whole (POST only)."""

    call: Call
    params: Mapping[str, str]
    body: bytes = b""

    def only(self, name: str) -> object:
        """The value of the one key that the body may have; raises BadCall for any other body."""
        try:
            said = json.loads(self.body.decode(), object_pairs_hook=_once)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict) or said.keys() != {name}:
            raise BadCall(f"send a JSON object with the key {name!r} and no other")
        return said[name]


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back; headers and framing are added at the door."""

    body: bytes
    status: int = 200
    media: bytes = JSON


@dataclass(frozen=True, slots=True)
class Row:
    """One route. `path` as Starlette writes it; where `method` is GET, HEAD is answered too."""

    method: str
    path: str
    scope: Scope
    answer: Callable[[Parts, Asked], Awaitable[Answer]]

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "HEAD") if self.method == "GET" else (self.method,)


def shown(shape: Mapping[str, object], status: int = 200) -> Answer:
    """A shape as JSON. ASCII, so that no name from outside can break it."""
    return Answer(json.dumps(shape, separators=(",", ":")).encode(), status)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
