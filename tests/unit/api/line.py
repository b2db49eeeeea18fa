"""An Edge with one scripted responder behind it, and everything between them real."""

from collections.abc import Awaitable, Callable

from ollama_wrap.api.edge import Edge, Facts
from ollama_wrap.api.guards import Door, Rules
from ollama_wrap.api.routes import PATHS, PREFIXES
from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.dialects import Ending
from ollama_wrap.errors import Unavailable
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.observe.ended import Ended
from ollama_wrap.proxy.budget import Allowance, Budget
from ollama_wrap.proxy.pipeline import Chains, Pipeline, Responders, Told
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.reply import Origin, Reply
from ollama_wrap.routing.router import Ranking
from tests.fakes.bodies import Stream
from tests.fakes.clock import FakeClock, settle
from tests.fakes.exchange import FakeExchange
from tests.fakes.nodes import upstream
from tests.unit.api.calls import Stock

NDJSON = (b"Content-Type", b"application/x-ndjson")
CHUNKED = (b"Transfer-Encoding", b"chunked")
SITE = "https://app.example"


Answer = Callable[[Call], Awaitable[Reply]]


class Scripted:
    """Every responder there is; answers as the test says."""

    def __init__(self, answer: Answer) -> None:
        self.calls: list[Call] = []
        self._answer = answer

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        self.calls.append(call)
        return await self._answer(call)


class Line:
    """An Edge, with one responder behind it and everything between them real."""

    def __init__(
        self, answer: Reply | Exception | Answer, mode: Mode = Mode.DISTRIBUTED, reason: str = ""
    ) -> None:
        async def said(_: Call) -> Reply:
            if isinstance(answer, Reply):
                return answer
            assert isinstance(answer, Exception)
            raise answer

        self.clock = FakeClock()
        self.asked = Scripted(answer if callable(answer) else said)
        self.ended: list[Ended] = []
        self.stored = 0
        self.forbidden: Exception | None = None
        self.stock = Stock(SITE.encode())
        fleets = Fleets(Fleet(mode, reason or "setting", upstream("local"), (upstream("r1=h"),)))
        told = Told(self._heard, self._store, lambda _: 1000)
        everybody = Responders(**dict.fromkeys(Responders.__slots__, self.asked))
        self.pipeline = Pipeline(
            Chains(everybody), lambda _: Ranking((), None), told, Budget(Allowance()), self.clock
        )
        door = Door(Rules(listeners=("127.0.0.1:11434",)), self.stock, self.clock)
        facts = Facts("tower", PATHS, PREFIXES, self._rights, b"nonce")
        self.edge = Edge(door, self.pipeline, fleets, facts, self.clock)

    def _heard(self, ended: Ended, _: Kind) -> None:
        self.ended.append(ended)

    def _store(self, call: Call, reply: Reply, tap: Tap, ending: Ending) -> None:
        self.stored += 1

    def _rights(self, _: Call) -> None:
        if self.forbidden is not None:
            raise self.forbidden

    async def take(self, exchange: FakeExchange) -> FakeExchange:
        assert self.edge.take(exchange.real)
        await settle()
        return exchange


def node_says(
    body: bytes | Stream = b"",
    *headers: tuple[bytes, bytes],
    status: int = 200,
    local: bool = False,
) -> Reply:
    origin = Origin(node="tower" if local else "r1", local=local, reason="policy")
    return Reply(status, list(headers), body, origin=origin)
