"""The pool of each node: made when first used, closed when its node has left."""

import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ollama_wrap.nodes.node import Node
from ollama_wrap.wire.pool import Alive, Pool, Target


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that pools may take: to connect here, elsewhere, with TLS; and to keep idle."""

    connect_local: float = 1.0
    connect: float = 2.0
    connect_tls: float = 4.0
    idle: float = 30.0
    alive: Alive = field(default_factory=Alive)


class Pools:
    """Pools by node id. `tls` makes the context that nodes with https are checked with."""

    def __init__(self, times: Times, tls: Callable[[], ssl.SSLContext]) -> None:
        self._times = times
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._pools: dict[str, tuple[Node, Pool]] = {}

    def of(self, node: Node, addresses: Callable[[], Sequence[str]]) -> Pool:
        """The pool of `node`; a node that was declared anew gets a new one."""
        known = self._pools.get(node.id)
        if known is not None and known[0] is node:
            return known[1]
        if known is not None:
            known[1].close()
        pool = Pool(self._target(node, addresses))
        self._pools[node.id] = (node, pool)
        return pool

    def find(self, node: Node) -> Pool | None:
        """The pool of `node`, if it has one already."""
        known = self._pools.get(node.id)
        return known[1] if known is not None and known[0] is node else None

    def keep(self, ids: Iterable[str]) -> None:
        """Close the pools of all other nodes."""
        for left in set(self._pools) - set(ids):
            self._pools.pop(left)[1].close()

    def obey(self, times: Times) -> None:
        """Connect by other times from now on, and by what certificates are on the disk now."""
        anew = times != self._times
        self._times, self._tls = times, None
        self.keep(
            node_id
            for node_id, (node, _) in self._pools.items()
            if not anew and node.scheme != "https"
        )

    def close(self) -> None:
        """Close all."""
        self.keep(())

    def _target(self, node: Node, addresses: Callable[[], Sequence[str]]) -> Target:
        times = self._times
        tls = None
        connect = times.connect_local if node.local else times.connect
        if node.scheme == "https":
            tls = self._tls = self._tls or self._make_tls()
            connect = times.connect_tls
        options = times.alive.options()
        return Target(addresses, node.port, node.host, tls, connect, times.idle, options)
