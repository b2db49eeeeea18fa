"""What responders are made with, and others that stand in for those they hand a call on to.

No node of these has an address, so an attempt ends before a socket is made: its
error says which node was asked.
"""

import ssl

from ollama_wrap.call import Call
from ollama_wrap.errors import Unavailable
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.proxy.limits import Waits
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.strange import Strange
from ollama_wrap.reply import Reply
from ollama_wrap.wire.pools import Pools, Times
from tests.fakes.clock import FakeClock


def wire(fleets: Fleets, refreshed: list[str] | None = None) -> Wire:
    """`refreshed` collects the ids of nodes whose models are to be read again."""
    clock = FakeClock()
    return Wire(
        pools=Pools(Times(), _no_tls),
        fleets=fleets,
        clock=clock,
        waits=Waits(),
        node_id="tower",
        suspect=lambda _: None,
        refresh=([] if refreshed is None else refreshed).append,
        warmed=lambda *_: None,
        reread=_probe,
        probe=_probe,
        secret=lambda _: False,
        strange=Strange(clock),
    )


class Stand:
    """A responder that answers 200 and keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        self.calls.append(call)
        return Reply(200, [])


async def _probe(_: str) -> None:
    pass


def _no_tls() -> ssl.SSLContext:
    raise AssertionError
