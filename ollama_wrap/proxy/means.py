"""Wire: what attempts are made with. Built once by `app.py`, the same for all calls."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ollama_wrap.clock import Clock
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.proxy.limits import Waits
from ollama_wrap.proxy.overlap import Overlap
from ollama_wrap.proxy.strange import Strange
from ollama_wrap.wire.pools import Pools


@dataclass(slots=True)
class Wire:
    """What attempts are made with."""

    pools: Pools
    fleets: Fleets
    clock: Clock
    waits: Waits
    #: name for `Via`
    node_id: str
    #: called with a node id that a call put in doubt, or whose models changed
    suspect: Callable[[str], None]
    refresh: Callable[[str], None]
    #: called with a node id and the key of a model that was not in memory there and answers
    warmed: Callable[[str, str], None]
    #: comes back when what a node has is known anew
    reread: Callable[[str], Awaitable[None]]
    #: asks a node now, and comes back when its health says what came of it
    probe: Callable[[str], Awaitable[None]]
    #: whether a credential is a token or key of ours
    secret: Callable[[bytes], bool]
    #: says what errors nobody knows
    strange: Strange
    overlap: Overlap = field(default_factory=Overlap)
