"""Reply: one answer whose body may still be open, and where it came from.

A body is either bytes, or a Source that pushes pieces into a Sink: a task
switch for every token is what an answer would otherwise cost.
"""

from typing import Protocol

from msgspec import Struct, field

from ollama_wrap.call import Header
from ollama_wrap.errors import UpstreamError


class Sink(Protocol):
    """Takes the pieces of a body."""

    def feed(self, pieces: list[bytes]) -> None:
        """Pieces that arrived together, each as the node framed it; never empty."""

    def end(self, error: UpstreamError | None) -> None:
        """Called once: the body is whole (None), or it broke."""


class Source(Protocol):
    """A body that is still coming."""

    def start(self, sink: Sink) -> None:
        """Push all pieces, those that wait here first, into `sink`."""

    def pause(self) -> None:
        """Stop reading from the node."""

    def resume(self) -> None:
        """Read on."""

    def close(self) -> None:
        """Give back what the body holds; a connection in mid-body is cut. May be called twice."""


class Alike(Protocol):
    """What replies of a node share that begin alike, but for date and length."""

    @property
    def streamed(self) -> bool:
        """Whether the body is a stream of lines or events."""

    @property
    def notes(self) -> dict[object, object]:
        """For whoever works something out from the head alone."""


class Origin(Struct):
    """Who made an answer and why they were asked; what the X-Ollama-* headers say."""

    node: str | None = None
    #: the node is this host's own Ollama: what it says passes as it came
    local: bool = False
    reason: str | None = None
    fallback: str | None = None
    attempts: tuple[tuple[str, str], ...] = ()
    #: the model that was asked for, where it is not the client's
    model: str | None = None
    #: seconds since a cached answer was stored
    age: int | None = None


class Reply(Struct, eq=False):
    """One answer: raw headers in the node's order and case, framing ones too, and its body."""

    status: int
    headers: list[Header]
    body: bytes | Source = b""
    phrase: bytes = b""
    origin: Origin = field(default_factory=Origin)
    #: None: it is no node's own
    alike: Alike | None = None

    def close(self) -> None:
        """Give back what an open body holds, and let go of the body: it holds its Reply."""
        body = self.body
        if not isinstance(body, bytes):
            self.body = b""
            body.close()
