"""The gate before the edge: closed until it is known that our Ollama is not ourselves.

Calls that come in meanwhile are taken, and wait. Owns which of them pass at once:
our own question, which would not come back otherwise. Must not know what is asked.
"""

from collections.abc import Callable

from ollama_wrap.api.plan import NONCE
from ollama_wrap.wire.base import Exchange
from ollama_wrap.wire.inbound import Inbound, Take

_Ready = Callable[[Exchange], None]


class Gate:
    """Stands where the edge's `take` does, and gives its place up when it opens."""

    def __init__(self, take: Take, boot: str) -> None:
        """`boot` is what our own question carries."""
        self._take = take
        self._boot = boot.encode()
        self._waiting: list[tuple[Exchange, _Ready]] = []

    def take(self, exchange: Exchange) -> bool:
        """See `wire.inbound`."""
        taken = self._take(exchange)
        ready = exchange.ready
        if ready is not None and exchange.fields.get(NONCE) != self._boot:
            exchange.ready = None
            self._waiting.append((exchange, ready))
        return taken

    def open(self, protocol: type[Inbound]) -> None:
        """From now on the connections of `protocol` find nobody between."""
        setattr(protocol, "take", staticmethod(self._take))  # noqa: B010  a function, no method
        waiting, self._waiting = self._waiting, []
        for exchange, ready in waiting:
            # Nobody is left to answer where the client has gone meanwhile.
            if not exchange.over:
                ready(exchange)
