"""Due: which of the questions that are not asked each time are to be asked now. Pure.

Must not ask, and must not know the answers beyond what decides the next question.
"""

from ollama_wrap.config.groups import Health as Rules
from ollama_wrap.nodes.upstream import Upstream

#: seconds until a node that was no sidecar is asked again whether it is one
PING_AGAIN = 60.0


class Due:
    """The questions to one node; all times are monotonic seconds."""

    def __init__(self, upstream: Upstream, rules: Rules) -> None:
        self._upstream = upstream
        self.rules = rules
        self._ping = 0.0
        self._models = 0.0

    def ping(self, now: float) -> bool:
        """Whether it may be a sidecar: asked once, then while it is one, else now and then."""
        if self._upstream.node.local:
            return False
        return self._upstream.sidecar is not None or now >= self._ping

    def is_plain(self, now: float) -> None:
        self._ping = now + PING_AGAIN

    def lists(self, *, unreadable: bool) -> bool:
        """Whether it would list anything: it answers, and there is an Ollama behind a sidecar."""
        sidecar = self._upstream.sidecar
        if sidecar is not None and not (sidecar.compatible and sidecar.ollama):
            return False
        return unreadable or self._upstream.health.oks > 0

    def models(self, now: float) -> bool:
        """Whether the list of stored models is old, or known to be wrong."""
        return now >= self._models

    def want_models(self) -> None:
        self._models = 0.0

    def asked_models(self, now: float) -> None:
        """They are asked for now; what is wanted from here on is wanted again."""
        self._models = now + self._every

    @property
    def list_pause(self) -> float:
        """Seconds between two readings; what is loaded in our own Ollama is read more often."""
        every = self._every
        return min(every, self.rules.loaded_local) if self._upstream.node.local else every

    @property
    def _every(self) -> float:
        plain = self._upstream.sidecar is None
        return self.rules.lists_plain if plain else self.rules.lists_sidecar
