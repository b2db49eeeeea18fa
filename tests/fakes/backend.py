"""A node behind the Backend contract, which answers what the test last said."""

import asyncio

from ollama_wrap.backends.base import Probe
from ollama_wrap.errors import UpstreamError
from ollama_wrap.nodes.inventory import Loaded, Model
from ollama_wrap.nodes.names import canonical

ADDRESS = "10.0.0.7"


def model(name: str, digest: str = "d1") -> Model:
    return Model(name=name, key=canonical(name) or "", digest=digest)


def in_memory(name: str, digest: str = "d1") -> Loaded:
    return Loaded(key=canonical(name) or "", digest=digest)


class FakeBackend:
    """`asked` are the questions in order.

    Probes wait while `free` is not set, lists while `listing` is not.
    """

    able = True

    def __init__(self) -> None:
        self.says: Probe | UpstreamError = Probe(ADDRESS, version="0.33.0")
        self.ping: Probe | None = None
        self.has: tuple[Model, ...] | UpstreamError = ()
        self.runs: tuple[Loaded, ...] | UpstreamError = ()
        self.asked: list[str] = []
        self.free = asyncio.Event()
        self.free.set()
        self.listing = asyncio.Event()
        self.listing.set()
        self.at_once = 0
        self.most_at_once = 0
        self.closed = False

    def times(self, question: str) -> int:
        return self.asked.count(question)

    async def probe(self, seconds: float, *, ping: bool) -> Probe:
        self.asked.append("ping" if ping else "probe")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.free.wait()
        finally:
            self.at_once -= 1
        if isinstance(self.says, UpstreamError):
            raise self.says
        return self.ping if ping and self.ping is not None else self.says

    async def models(self, seconds: float) -> tuple[Model, ...]:
        self.asked.append("models")
        await self.listing.wait()
        if isinstance(self.has, UpstreamError):
            raise self.has
        return self.has

    async def loaded(self, seconds: float) -> tuple[Loaded, ...]:
        self.asked.append("loaded")
        await self.listing.wait()
        if isinstance(self.runs, UpstreamError):
            raise self.runs
        return self.runs

    async def version(self, seconds: float) -> str:
        self.asked.append("version")
        return "0.33.0"

    async def close(self) -> None:
        self.closed = True
