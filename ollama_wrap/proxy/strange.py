"""Errors of nodes whose text we do not know: said now and then, so that the list can grow.

Owns how often. The text itself is never written: it may repeat what a client sent.
"""

import hashlib

from ollama_wrap.clock import Clock
from ollama_wrap.observe import log

#: seconds until a text is said again, and texts that are remembered
_AGAIN = 3600.0
_KEPT = 64


class Strange:
    """Texts of a 500 that are in no list of `outcome.py`, by their digest."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def say(self, node: str, text: bytes) -> None:
        """Log it, once an hour for each text."""
        now = self._clock.monotonic()
        digest = hashlib.blake2b(text.lower(), digest_size=6).hexdigest()
        self._said = {one: at for one, at in self._said.items() if now - at < _AGAIN}
        # A text that differs each time must not fill the log either.
        if digest in self._said or len(self._said) >= _KEPT:
            return
        self._said[digest] = now
        log.get(__name__).warning(
            "a node failed with a text that is not known: nothing follows from it",
            node=node,
            digest=digest,
            bytes=len(text),
        )
