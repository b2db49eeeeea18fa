"""What a dialect is: the contract between the API a client speaks and the rest of the program.

Owns the values that travel: Route (method and path), Reading (the body) and
Ending (the last bytes of an answer). It must not know nodes, sockets or modes.
"""

from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from ollama_wrap.call import Header, Kind


@dataclass(frozen=True, slots=True)
class Route:
    """What method and path say, before the body is read.

    `kind` may still change with the body; `dialect` is a key of `DIALECTS`;
    `repeatable` means that the request may be sent again until its first byte.
    """

    kind: Kind
    operation: str
    dialect: str
    reads_body: bool = False
    repeatable: bool = False
    #: from the path, `/v1/models/{m}`, percent-decoded
    model: str | None = None


class Reading(Struct, frozen=True):
    """What the body says, read as Go reads it.

    `model` is untrimmed, as the client spelled it; None where it is absent or
    empty. `stream` is what was asked for: a load is answered in one piece all
    the same, so the answer's own Content-Type has the last word.
    """

    model: str | None
    stream: bool
    kind: Kind
    repeatable: bool
    #: carries `context`: tokens that mean the same only on the same digest
    bound_to_digest: bool = False
    unload: bool = False
    load: bool = False
    #: every other model name the body carries: `from`, `source`, `destination`,
    #: and a `model` that stock's cloud forwarding would read instead
    sources: tuple[str, ...] = ()
    #: the model whose holder can answer: `source` of a copy, `from` of a create, else `model`
    follows: str | None = None


class Ending(Struct, frozen=True):
    """What the last bytes of an inference answer say; counts are None where none were said."""

    done: bool
    failed: bool
    prompt_tokens: int | None = None
    tokens: int | None = None


class Dialect(Protocol):
    """One API: how its errors look and what ends its streams."""

    name: str

    def error(self, status: int, text: str, request_id: str) -> tuple[list[Header], bytes]:
        """An error of ours: headers without framing, and the body."""

    def marker(self, reason: str, request_id: str, tail: bytes) -> bytes:
        """What tells the client that its stream broke; `tail` are the last bytes it was sent."""

    def ending(self, operation: str, streamed: bool, tail: bytes) -> Ending:  # noqa: FBT001
        """Whether the answer that ends with `tail` (16 KiB are enough) is whole."""
