"""What a backend is: the questions that we ask a node, and the values that come back.

Every question raises UpstreamError when there is no answer to it: ConnectFailed,
UpstreamTimeout and StreamBroken for the connection, BadReply for an answer that
cannot be read, UpstreamError itself for a readable refusal. This file knows no
HTTP.
"""

from dataclasses import dataclass
from typing import Protocol

from ollama_wrap.errors import UpstreamError
from ollama_wrap.nodes.inventory import Loaded, Model
from ollama_wrap.nodes.sidecar import Sidecar


@dataclass(frozen=True, slots=True)
class Probe:
    """What a node said of itself.

    `address` is the one that answered. `version` is its Ollama's, which a
    sidecar's ping does not carry; `wall` is the Unix time on a sidecar's clock.
    """

    address: str
    version: str | None = None
    sidecar: Sidecar | None = None
    wall: float | None = None


class Backend(Protocol):
    """One node, asked in the language that its sort of node speaks."""

    #: False: nodes of this sort are shown, never asked and never routed to
    able: bool

    async def probe(self, seconds: float, *, ping: bool) -> Probe:
        """A sign of life that costs the node next to nothing; `ping`: it may be a sidecar."""

    async def models(self, seconds: float) -> tuple[Model, ...]:
        """What is stored there."""

    async def loaded(self, seconds: float) -> tuple[Loaded, ...]:
        """What is in memory there."""

    async def version(self, seconds: float) -> str:
        """The version of its server."""

    async def close(self) -> None:
        """Let go of connections."""


class Unable:
    """The backend of a sort of node that is known and cannot be asked yet."""

    able = False
    name = "these"

    def __init__(self, client: object) -> None:
        """Nothing is kept: there is nothing to ask."""

    async def probe(self, seconds: float, *, ping: bool) -> Probe:
        raise self._refusal()

    async def models(self, seconds: float) -> tuple[Model, ...]:
        raise self._refusal()

    async def loaded(self, seconds: float) -> tuple[Loaded, ...]:
        raise self._refusal()

    async def version(self, seconds: float) -> str:
        raise self._refusal()

    async def close(self) -> None:
        """Nothing is held."""

    def _refusal(self) -> UpstreamError:
        return UpstreamError(f"nodes with kind={self.name} cannot be asked yet")
