"""Sidecar: what another ollama-wrap said of itself when it was last asked.

A value; it must not know how it was asked, nor what follows from it.
"""

from dataclasses import dataclass

#: versions of the protocol between sidecars that we speak, first and last
PROTO = (1, 1)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a node that is a sidecar said in its last ping; `loaded` are canonical names."""

    id: str
    boot: str = ""
    proto: tuple[int, int] = PROTO
    ollama: bool = True
    in_flight: int = 0
    queued: int = 0
    slots: int | None = None
    loaded: tuple[str, ...] = ()
    drain: bool = False
    models_version: str = ""
    #: it takes no inference now
    saturated: bool = False

    @property
    def compatible(self) -> bool:
        """Whether we share a version of the protocol."""
        return self.proto[0] <= PROTO[1] and self.proto[1] >= PROTO[0]
