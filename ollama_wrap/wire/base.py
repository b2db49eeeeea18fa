"""Exchange: the contract between a connection and the edge.

One request on an open connection, its answer still to be written. Two kinds
exist: `wire.inbound`'s own, and the one `api.asgi` makes of a plain ASGI call.
"""

import asyncio
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Protocol

from ollama_wrap.call import Header


class Framing(Enum):
    """How the end of a reply's body is marked."""

    NONE = 0
    """There is no body: HEAD, 204, 304."""
    LENGTH = 1
    """By the Content-Length among the headers."""
    CHUNKED = 2
    """By the last chunk."""
    CLOSE = 3
    """Not at all: it ends with the connection."""


class Pace(Enum):
    """How long a request may take, which decides what a silent client means."""

    BRIEF = 0
    """Answered soon, also to a client that has said that it sends no more."""
    LONG = 1
    """A generation: a client that sends no more has left, as with stock."""
    BULK = 2
    """Models on their way: as LONG, and up and down more time is allowed."""


class Exchange(Protocol):
    """One request, and the way to answer it.

    `headers` are as they came, less Content-Length: `length` is the body's as
    announced, -1 where it is chunked, and `sized` is the place and spelling of that
    field, None where there was none. `fields` are the same by lower-case name, the
    first value where a name repeats. `notes` is shared by all requests that begin
    alike. `paused` is True while the client cannot take more; then `writable` is
    called once it can.
    """

    length: int
    pace: Pace
    """Set by the edge, as soon as it knows."""
    complete: bool
    """The body is here to its end."""
    started: bool
    """`begin` was called."""
    over: bool
    """The answer is complete or cut, or the client is gone."""
    keep_alive: bool
    """The connection serves on after this answer, as far as we know."""
    paused: bool
    ready: "Callable[[Exchange], None] | None"
    """Called once with it, when what came together with the head has been taken in."""
    writable: Callable[[], None] | None
    gone: Callable[[], object] | None
    """Called once when the client leaves before its answer is complete."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it runs."""

    @property
    def method(self) -> str:
        """As in the request line."""

    @property
    def target(self) -> bytes:
        """As it came."""

    @property
    def headers(self) -> list[Header]:
        """See the class; so are the next three."""

    @property
    def fields(self) -> Mapping[bytes, bytes]: ...

    @property
    def sized(self) -> tuple[int, bytes] | None: ...

    @property
    def notes(self) -> dict[object, object]: ...

    @property
    def http11(self) -> bool:
        """Not HTTP/1.0."""

    @property
    def ends(self) -> tuple[str, str]:
        """Addresses, without ports: the client's, and the one that its connection came in on."""

    @property
    def plain(self) -> bool:
        """Takes a head that is written already: for HTTP/1.1, and the connection stays."""

    @property
    def has_body(self) -> bool:
        """A body was announced, even an empty one."""

    def taken(self) -> bytes:
        """What is here of the body, which is then no longer here."""

    async def whole(self, limit: int) -> bytes | None:
        """The body if it ends within `limit` bytes, else None: then `read` has it, whole."""

    async def read(self) -> bytes:
        """The next bytes of the body, `b""` at its end; StreamBroken when the client is gone."""

    def begin(self, status: int, phrase: bytes, headers: list[Header], framing: Framing) -> None:
        """The reply's head; it may wait for the first bytes of the body (see `flush`)."""

    def begin_with(self, head: bytes, framing: Framing) -> None:
        """`begin` for one that is `plain`: the whole head, its blank line included."""

    def feed(self, pieces: list[bytes]) -> None:
        """Bytes of the body, each piece a chunk where the reply is chunked."""

    def flush(self) -> None:
        """Send the head now."""

    def end(self) -> None:
        """The reply is whole."""

    def cut(self) -> None:
        """End the connection so that nobody can take the reply for whole."""
