"""A real sidecar before fake Ollamas, in the loop of the test: the whole line, on real sockets.

    async with cluster({"local": host("tiny"), "r1": host("tiny", "big", entry="slots=2")}) as one:
        reply = await one.post("/api/chat", model="big", messages=[…])

Leaving the block stops everything and checks that nothing is left of it: no task, no place, no
kept byte, no open file; every generation ended, and nothing that changes a node was done twice.
"""

import asyncio
import contextlib
import io
import json
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from ollama_wrap import app, tasks
from ollama_wrap.call import Mode
from ollama_wrap.config import Settings
from ollama_wrap.lifecycle import Load
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.observe import log
from ollama_wrap.runtime import Runtime
from ollama_wrap.testing import FakeOllama, ModelSpec
from ollama_wrap.wire import inbound
from tests.fakes.raw_http import Headers, RawReply, fetch, read_reply, request_bytes

Tree = Mapping[str, Any]
#: serves a runtime on a socket; what it gives counts connections: `uvicorn.Server`, or nothing
Serve = Callable[[Runtime, socket.socket], AbstractAsyncContextManager[uvicorn.Server | None]]
#: seconds that anything may take here
PATIENCE = 5.0
#: what changes a node: never to be done twice for one request
ONCE = ("/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete")
#: numbers that make a node's life short enough for a test
QUICK: Tree = {
    "interval": 0.2,
    "jitter": 0.0,
    "timeout": 0.3,
    "fast_interval": 0.1,
    "rise": 1,
    "warming": 0.0,
}


@dataclass(frozen=True, slots=True)
class Host:
    """A fake node to be: its models, what OLLAMA_WRAP_NODES says of it, and the fake's options."""

    models: tuple[ModelSpec | str, ...] = ("tiny",)
    entry: str = ""
    up: bool = True
    options: Tree = field(default_factory=dict)


def host(*models: ModelSpec | str, entry: str = "", up: bool = True, **options: Any) -> Host:
    return Host(models or ("tiny",), entry, up, options)


class Talk:
    """One connection of a client, read as far as the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def until(self, end: bytes) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readuntil(end)

    async def rest(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def reply(self, method: str = "POST") -> RawReply:
        async with asyncio.timeout(PATIENCE):
            return await read_reply(self.reader, method)

    def leave(self) -> None:
        self.writer.transport.abort()

    def reset(self) -> None:
        """Leave at once, whatever is still on its way out."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.leave()


class Cluster:
    """A running sidecar, and the fakes around it by node id; `local` is its own."""

    def __init__(self, runtime: Runtime, fakes: Mapping[str, FakeOllama], port: int) -> None:
        self.runtime = runtime
        self.fakes = fakes
        self.port = port
        self.written = io.StringIO()
        #: requests of the test go to several nodes on purpose
        self.several = False

    @property
    def local(self) -> FakeOllama:
        return self.fakes["local"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __getitem__(self, node: str) -> FakeOllama:
        return self.fakes[node]

    def upstream(self, node: str) -> Upstream:
        found = self.runtime.fleets.current.find(node)
        assert found is not None
        return found

    def state(self, node: str) -> NodeState:
        return self.upstream(node).state

    def sidecar(self, node: str, **says: Any) -> None:
        """From now on a fake answers the pings of sidecars, and is asked soon."""
        ping = {"id": node, "boot": "b", "proto": [1, 1], "ollama": True, "in_flight": 0}
        ping |= {"queued": 0, "loaded": [], "drain": False, "models_version": ""}
        body = json.dumps(ping | says)
        self.fakes[node].on(route="/api/distributed/ping", status=200, body=body, times=0)
        # A plain node is asked once a minute whether it has become one.
        self.runtime.prober._watches[node]._due._ping = 0.0

    # ------------------------------------------------------------ requests

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: Headers | None = None
    ) -> RawReply:
        """One request on a connection of its own."""
        close = [*(headers or []), ("Connection", "close")]
        return await fetch(self.port, request_bytes(method, target, body, close), PATIENCE)

    async def get(self, target: str, headers: Headers | None = None) -> RawReply:
        return await self.ask("GET", target, headers=headers)

    async def post(self, target: str, headers: Headers | None = None, **fields: Any) -> RawReply:
        return await self.ask("POST", target, json.dumps(fields).encode(), headers)

    async def chat(self, model: str, headers: Headers | None = None, **more: Any) -> RawReply:
        """A chat that is not streamed, unless `more` says so."""
        fields = {"messages": [{"role": "user", "content": "hi"}], "stream": False} | more
        return await self.post("/api/chat", headers, model=model, **fields)

    @contextlib.asynccontextmanager
    async def open(self, request: bytes) -> AsyncIterator[Talk]:
        """A connection on which `request` was sent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            yield Talk(reader, writer)
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    # ------------------------------------------------------------ what was seen

    async def until(self, holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Come back when something holds. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.002)

    def asked(self, path: str) -> dict[str, int]:
        """How often each fake was asked for this path; those that were not are left out."""
        counts = {node: len(fake.ledger.to(path)) for node, fake in self.fakes.items()}
        return {node: count for node, count in counts.items() if count}

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """What was logged: the request lines, or all of one event."""
        log.flush()
        made = [json.loads(line) for line in self.written.getvalue().splitlines()]
        return [line for line in made if (line.get("event") == event if event else "path" in line)]

    async def ended(self, count: int = 1) -> dict[str, Any]:
        """The request line of the last call, once so many have ended."""
        await self.until(lambda: len(self.lines()) >= count)
        return self.lines()[-1]

    async def settled(self) -> None:
        """No call is open and no fake works."""
        await self.until(lambda: not self.runtime.pipeline.running)
        await self.until(lambda: all(not one.ledger.counts.running for one in self.fakes.values()))

    def check(self) -> None:
        """What must hold when nothing runs any more."""
        budget = self.runtime.pipeline.budget
        assert (budget.running, budget.kept, budget.retrying) == (0, 0, 0)
        for upstream in self.runtime.fleets.current.upstreams:
            assert (upstream.in_flight, upstream.circuit.trying) == (0, False), upstream
        once: Counter[tuple[str, str, bytes]] = Counter()
        for node, fake in self.fakes.items():
            seen = fake.ledger.counts
            ended = seen.generations_finished + seen.generations_cancelled + seen.generations_failed
            assert seen.generations_started == ended, node
            where = node if self.several else ""
            changes = [one for one in fake.ledger.entries if one.path in ONCE]
            once.update((where, one.path, one.body) for one in changes)
        assert [what for what, count in once.items() if count > 1] == []


@contextlib.asynccontextmanager
async def cluster(
    hosts: Mapping[str, Host] | None = None,
    *,
    level: str = "info",
    check: bool = True,
    serve: Serve | None = None,
    load: Load | None = None,
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """A running sidecar whose nodes are probed and listed; `local` is its own Ollama.

    `settings` are those of `Settings`, groups as dicts. `check`: see the module. `serve`:
    with another server than our own. `load`: what a reload reads.
    """
    hosts = {"local": Host(), **(hosts or {})}
    before, files = tasks.running(), _files()
    async with contextlib.AsyncExitStack() as stack:
        fakes: dict[str, FakeOllama] = {}
        for node, one in hosts.items():
            fakes[node] = await stack.enter_async_context(FakeOllama(one.models, **one.options))
            if not one.up:
                fakes[node].die()
        runtime = app.build(Settings.model_validate(_settings(hosts, fakes, settings)), load=load)
        sock = socket.create_server(("127.0.0.1", 0))
        made = Cluster(runtime, fakes, sock.getsockname()[1])
        stack.enter_context(_logged(made.written, level))
        server = await stack.enter_async_context((serve or serving)(runtime, sock))
        await _ready(made, hosts)
        yield made
        await made.settled()
        await _clients_left(server)
    if check:
        made.check()
        await made.until(lambda: tasks.running() <= before)
        await made.until(lambda: _files() <= files)


@contextlib.asynccontextmanager
async def serving(
    runtime: Runtime, sock: socket.socket, http: Any = None
) -> AsyncIterator[uvicorn.Server]:
    """uvicorn's own server, without the signals that it takes when it owns the process.

    `http`: another protocol class than ours.
    """
    config = uvicorn.Config(
        app.application(runtime),
        http=http or inbound.protocol(runtime.edge.take, runtime.guard),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=3600,
        timeout_graceful_shutdown=1,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[sock])
    try:
        yield server
    finally:
        await server.shutdown(sockets=[sock])


async def _clients_left(server: uvicorn.Server | None) -> None:
    """The server sees the connections end that the test has closed."""
    if server is None:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            while server.server_state.connections:
                await asyncio.sleep(0.002)


async def _ready(made: Cluster, hosts: Mapping[str, Host]) -> None:
    fleet = made.runtime.fleets.current
    awaited = [
        made.upstream(node)
        for node, one in hosts.items()
        if one.up and (node == "local" or fleet.mode is Mode.DISTRIBUTED)
    ]
    await made.until(
        lambda: all(one.state is NodeState.UP and one.inventory.known for one in awaited)
    )
    away = [made.upstream(node) for node, one in hosts.items() if not one.up]
    if fleet.mode is not Mode.DISTRIBUTED:
        away = [one for one in away if one.node.local]
    await made.until(lambda: all(one.state is NodeState.DOWN for one in away))


def _settings(
    hosts: Mapping[str, Host], fakes: Mapping[str, FakeOllama], given: Tree
) -> dict[str, Any]:
    nodes = [
        ";".join(filter(None, (f"{node}={fakes[node].url}", one.entry)))
        for node, one in hosts.items()
        if node != "local"
    ]
    base: dict[str, Any] = {
        "local": {"address": fakes["local"].url},
        "nodes": {"text": ",".join(nodes)},
        "server": {"node_id": "tower", "listen": "127.0.0.1:11434"},
        "state": {"store": "memory"},
        "health": dict(QUICK),
        # That of a whole run of tests says nothing of the sidecar.
        "memory_limit": "0",
    }
    for name, value in given.items():
        base[name] = {**base.get(name, {}), **value} if isinstance(value, Mapping) else value
    return base


@contextlib.contextmanager
def _logged(into: io.StringIO, level: str) -> Iterator[None]:
    """Lines go into `into` as JSON; what a failed test wrote is shown."""
    before = log._output.level, log._output.format
    with contextlib.redirect_stderr(into):
        log.configure(level, "json")
        try:
            yield
        finally:
            log.flush()
            log._output.level, log._output.format = before
    sys.stderr.write(into.getvalue())


def _files() -> int:
    """Open file descriptors of this process, where the system tells."""
    try:
        return len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return 0
