"""One scenario's stage: its programs and fault proxies, ended when it is left.

    async with stage(run, tmp_path, {"local": …, "r1": …}) as on:
        async with on.client.traffic():
            on["r1"].kill()

Leaving it without an error checks the fakes' books, and what the sidecar's log says of faults
of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import book, spaces
from tests.chaos.faults import FaultProxy
from tests.chaos.figures import Run
from tests.chaos.programs import Fake, Sidecar, fake, paced, sidecar
from tests.chaos.traffic import WORDS, Client

#: seconds until all nodes are up
READY = 20.0
#: seconds of a loop that is late, at most: of 99 in 100 looks, and ever
LAG_P99, LAG_MAX = 0.05, 0.5
#: looks of which 99 in 100 mean something
ENOUGH = 150
_FAULTS = ("Traceback", "exception was never retrieved", "unhandled", "Unclosed")


@dataclass(frozen=True, slots=True)
class Host:
    """A fake to be: its models, what OLLAMA_WRAP_NODES adds to it, and its options.

    `proxied`: behind a fault proxy. `apart`: in a network namespace of its own. `up`: it runs
    when the sidecar starts.
    """

    models: str = "tiny"
    entry: str = ""
    proxied: bool = False
    apart: bool = False
    up: bool = True
    options: Mapping[str, object] = field(default_factory=dict)


def host(
    models: str = "tiny",
    entry: str = "",
    *,
    proxied: bool = False,
    apart: bool = False,
    up: bool = True,
    **options: object,
) -> Host:
    return Host(models, entry, proxied, apart, up, options)


#: what the fakes of most scenarios have in common: many at a time, a quarter of a second each
USUAL: Mapping[str, object] = {
    "say": WORDS,
    "echo": True,
    "num_parallel": 256,
    "token_delay": 0.02,
}


class Stage:
    """Programs by name; `side` is the sidecar, `client` asks it."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run = run
        self.folder = folder
        self.fakes: dict[str, Fake] = {}
        self.proxies: dict[str, FaultProxy] = {}
        self.sidecars: dict[str, Sidecar] = {}
        self.client = Client(lambda: self.side.port)
        #: nodes whose answers are broken on their way: they think that they have served
        self.bent: set[str] = set()
        self.lag_matters = True

    @property
    def side(self) -> Sidecar:
        return self.sidecars["tower"]

    def __getitem__(self, name: str) -> Fake:
        return self.fakes[name]

    def add(self, name: str, one: Host, **more: Any) -> Fake:
        made = fake(name, one.models, self.folder, options={**USUAL, **one.options}, **more)
        self.fakes[name] = made
        return made

    async def restart(self, name: str) -> None:
        """Start a killed fake again, on its port."""
        one = self.fakes[name]
        given = list(one.command)
        if "--port" not in given:
            given += ["--port", str(one.port)]
        one.command = given
        one.start()
        await one.listens()

    def address(self, name: str) -> str:
        port = self.proxies[name].port if name in self.proxies else self.fakes[name].port
        return f"http://{self.fakes[name].host}:{port}"

    def entries(self, hosts: Mapping[str, Host]) -> str:
        """OLLAMA_WRAP_NODES for these hosts."""
        named = [name for name in hosts if name != "local"]
        return ",".join(
            ";".join(filter(None, (f"{name}={self.address(name)}", hosts[name].entry)))
            for name in named
        )

    async def ready(self, names: Sequence[str], *, known: bool = True) -> None:
        """These nodes are up, and their models known."""
        async with asyncio.timeout(READY):
            while True:
                nodes = await self.side.nodes()
                found = [nodes["tower" if name == "local" else name] for name in names]
                if all(one["status"] == "up" and (one["models"] or not known) for one in found):
                    return
                await asyncio.sleep(0.02)

    def seen(self) -> list[book.Seen]:
        """What all nodes saw."""
        return book.read(self.fakes.values())

    def inferred(self) -> list[book.Seen]:
        """Of that, the requests of our clients."""
        return [one for one in self.seen() if one.mark]

    async def settled(self, seconds: float = 5.0) -> None:
        """No client is served any more, and no fake works."""
        await self.client.done()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await book.unbalanced(self._alive()):
                    await asyncio.sleep(0.05)

    async def check(self) -> None:
        """The invariants; wrong ones go into the run's figures."""
        run = self.run
        await self.settled()
        # A sidecar that was frozen could tell nobody either.
        thawed = {name: max(one.thawed, self.side.thawed) for name, one in self.fakes.items()}
        bent = self.bent | self.proxies.keys()
        seen = self.seen()
        for other in seen:
            # What a frozen node finds when it goes on it may answer before it sees who has left.
            late = other.came <= self.fakes[other.node].thawed + 0.5
            if (other.node in bent or late) and other.end == "served":
                other.end = "sent"
        wrong = book.problems(seen, self.client.told, thawed)
        run.none("ledger: what must not be", wrong)
        run.none("ledger: generations not ended", await book.unbalanced(self._alive()))
        for one in self.sidecars.values():
            told = [word for word in _FAULTS if word in one.written()]
            run.none("faults in the sidecar's log", told)
            if one.running and run.full and self.lag_matters:
                lag = (await one.look()).get("lag", {})
                if lag.get("count", 0) >= ENOUGH:
                    run.timed("loop lag p99", lag["p99"] * 1000, LAG_P99 * 1000, "ms")
                if lag:
                    run.timed("loop lag max", lag["max"] * 1000, LAG_MAX * 1000, "ms")

    def _alive(self) -> list[Fake]:
        return [one for one in self.fakes.values() if one.running and one.port]

    def end(self) -> None:
        """Every process, by its id."""
        for one in (*self.sidecars.values(), *self.fakes.values()):
            one.kill()


@contextlib.asynccontextmanager
async def stage(
    run: Run,
    folder: Path,
    hosts: Mapping[str, Host] | None = None,
    settings: Mapping[str, str] | None = None,
    *,
    listed: bool = True,
    **process: Any,
) -> AsyncIterator[Stage]:
    """A sidecar, `tower`, before these fakes; `local` is its own. See the module.

    `listed`: it is told of them by its environment. `process`: fields of its `Program`.
    """
    hosts = {"local": Host(), **(hosts or {})}
    made = Stage(run, folder)
    async with contextlib.AsyncExitStack() as open_:
        open_.callback(made.end)
        for name, one in hosts.items():
            apart = {"under": spaces.OWN, "host": "0.0.0.0"} if one.apart else {}
            made.add(name, one, **apart).start()
        for name, one in hosts.items():
            port = await made.fakes[name].listens()
            if one.apart:
                await spaces.listens(made.fakes[name])
            if one.proxied:
                made.proxies[name] = await open_.enter_async_context(FaultProxy(port))
            if not one.up:
                made.fakes[name].kill()
        given = {
            "OLLAMA_LOCAL_ADDR": made.address("local"),
            **({"OLLAMA_WRAP_NODES": made.entries(hosts)} if listed else {}),
            "OLLAMA_WRAP_ROUTING": "balanced",
            **paced(run.factor),
            **(settings or {}),
        }
        made.sidecars["tower"] = sidecar("tower", folder, given)
        for name, value in process.items():
            setattr(made.side, name, value)
        made.side.start()
        await made.side.listens()
        awaited = [name for name, one in hosts.items() if one.up and (listed or name == "local")]
        await made.ready(awaited)
        await made.side.look("rest")
        yield made
        await made.check()
