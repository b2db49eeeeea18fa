"""Call: one client request as facts, and the enums it carries.

The edge fills a Call step by step; from the pipeline on nothing changes it but
`asked`: another model means another Call. It holds plain values and ids, no types of
upper rooms.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace

Header = tuple[bytes, bytes]


class Kind(StrEnum):
    """The sort of a request; it decides the chain of responders."""

    INFER = "infer"
    FOLLOW = "follow"
    SPREAD = "spread"
    LIST = "list"
    ONCE = "once"
    OTHER = "other"


class Mode(StrEnum):
    """Which nodes this sidecar uses: its own Ollama, all of them, or its own for want of others."""

    LOCAL = "local"
    DISTRIBUTED = "distributed"
    STANDALONE = "standalone"


# The same by other names, for what every request is asked: before Python 3.12 to read a
# member from its Enum takes ten times as long.
INFER, LIST, ONCE = Kind.INFER, Kind.LIST, Kind.ONCE
LOCAL, DISTRIBUTED, STANDALONE = Mode.LOCAL, Mode.DISTRIBUTED, Mode.STANDALONE


class Priority(StrEnum):
    """Who is shed last."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Upload(Protocol):
    """A request body that is still coming."""

    async def read(self) -> bytes:
        """The next bytes, `b""` at the end; raises StreamBroken when the client is gone."""


class LongBody(Struct, frozen=True, eq=False):
    """A body over 1 MiB, in the parts it came in: to put it together would hold up all others.

    `size`: bytes of all parts.
    """

    parts: tuple[bytes, ...]
    size: int

    def __len__(self) -> int:
        return self.size

    def replaced(self, start: int, end: int, text: bytes) -> "LongBody":
        """The body with `text` where the bytes from `start` to before `end` are, at least one."""
        parts: list[bytes] = []
        at = 0
        for part in self.parts:
            after = at + len(part)
            if after <= start or at >= end:
                parts.append(part)
            else:
                if at <= start:
                    parts += (part[: start - at], text)
                parts.append(part[max(0, end - at) :])
            at = after
        return LongBody(tuple(filter(None, parts)), self.size + len(text) - (end - start))


class Call(Struct, eq=False):
    """One client request.

    `target` and `headers` are the bytes that came, in their order and case;
    Content-Length is not among them but in `length` and `sized`.
    `path` is the target up to `?`, as latin-1 text, never decoded.
    `body` is the whole body where it is kept (a long one in parts), else None and `rest`
    streams it.
    Times are monotonic seconds.
    """

    id: str
    method: str
    target: bytes
    path: str
    headers: list[Header]
    #: the same by lower-case name, the first value where a name repeats
    fields: Mapping[bytes, bytes] = field(default_factory=dict)
    client: str = ""
    http11: bool = True
    started: float = 0.0
    deadline: float | None = None
    mode: Mode = Mode.LOCAL
    kind: Kind = Kind.OTHER
    #: name of the dialect (`dialects.DIALECTS`) and of the operation in it, such as "chat"
    dialect: str = "ollama"
    operation: str = ""
    model: str | None = None
    #: the model whose holder can answer: of a copy its source, of a create its base
    follows: str | None = None
    #: every other model name in the body: `from`, `source`, `destination`
    sources: tuple[str, ...] = ()
    #: came as `/ollama/…`: `target` and `path` are what follows
    prefixed: bool = False
    stream: bool = False
    #: the request may be sent to another node, or again, until its first byte
    repeatable: bool = False
    body: bytes | LongBody | None = b""
    rest: Upload | None = None
    #: bytes of the body as announced, -1 where it is chunked
    length: int = 0
    #: place and spelling of Content-Length among `headers`, where it is not
    sized: tuple[int, bytes] | None = None
    #: an attempt that is under way for it already
    begun: object = None
    #: the request's lines for a node, kept for all requests that begin alike; None: not kept
    lines: dict[object, tuple[object, bytes, bytes]] | None = None
    #: where in `body` its model's name stands, quotes included; None: nobody has looked
    named: tuple[tuple[int, int], ...] | None = None
    #: carries `context`: tokens that mean the same only on the same digest
    bound_to_digest: bool = False
    #: asks to unload the model (`keep_alive` 0 with nothing to do)
    unload: bool = False
    loopback: bool = False
    #: on our own routes: from loopback or a private address, no unknown proxy between
    near: bool = False
    caller: str = ""
    #: CORS headers for answers that are not the local Ollama's own
    cors: list[Header] = field(default_factory=list)
    #: Host and Origin go out as they came, so that the local Ollama's own rules answer
    keep_host: bool = True
    hop: bool = False
    #: "local", "remote" or a node id, where a force header says so
    forced: str | None = None
    #: "local" or "remote" where X-Ollama-Route says so
    side: str | None = None
    targets: tuple[str, ...] = ()
    priority: Priority = Priority.MEDIUM
    no_store: bool = False
    #: all that clients are told of its answer follows from its mode and the router's reason
    plain: bool = False
    dry_run: bool = False
    #: the node that is being asked; attempts write it, for whoever looks on
    asked: str | None = None

    def altered(self, **changes: object) -> "Call":
        """Another Call that differs in `changes`."""
        return replace(self, **changes)
