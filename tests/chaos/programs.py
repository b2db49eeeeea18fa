"""Processes of a chaos run: fake Ollamas and sidecars that are really killed and frozen.

Each is started with its own settings, writes into a file of its own, and is ended by its id
when the run leaves, or is killed itself.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollama_wrap.config import Settings, besides, rows
from tests.fakes.raw_http import RawReply, read_reply, request_bytes

ROOT = Path(__file__).parents[2]
#: seconds until a process must say where it listens
PATIENCE = 20.0
_LISTENS = re.compile(
    r"listening on [\d.]+:(\d+)|ollama-wrap \S+ on http://(?:[\d.]+):(\d+)|\"port\": (\d+)"
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
#: groups of settings whose times are intervals of a run
_PACED = {"health", "circuit", "client", "upstream", "queue", "retry", "server"}
_PR_SET_PDEATHSIG = 1


def paced(factor: float) -> dict[str, str]:
    """Settings that divide every interval by `factor`."""
    divided = {}
    for row in rows(Settings):
        found = _DURATION.fullmatch(row.default)
        if found and row.path[0] in _PACED and row.path != ("health", "seen"):
            divided[row.names[0]] = f"{float(found[1]) * _UNITS[found[2]] / factor:.6f}s"
    return divided if factor != 1 else {}


def _child(files: int | None, memory: int | None) -> Callable[[], None]:
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def prepare() -> None:
        # Nothing that was started outlives the run, however that ends.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    return prepare


@dataclass
class Program:
    """One process: started, stopped, frozen and killed by its id."""

    name: str
    command: Sequence[str]
    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    #: limits of open files and of memory (bytes); None: those of the run
    files: int | None = None
    memory: int | None = None
    #: put before the command: a program that runs another one
    under: Sequence[str] = ()
    #: sockets that it inherits
    passed: Sequence[int] = ()
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    #: when it last went on after it had been frozen, by the wall
    thawed: float = 0.0

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def output(self) -> Path:
        return self.folder / f"{self.name}.{self.starts}.out"

    def start(self) -> None:
        self.starts += 1
        environment = {
            **besides(rows(Settings)),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            **self.settings,
        }
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*self.under, *self.command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self.passed,
                preexec_fn=_child(self.files, self.memory),  # noqa: PLW1509  before any thread
            )

    async def listens(self) -> int:
        """Its port, once it listens."""
        async with asyncio.timeout(PATIENCE):
            while True:
                if found := _LISTENS.search(self.written()):
                    self.port = int(next(filter(None, found.groups())))
                    return self.port
                if not self.running:
                    raise RuntimeError(f"{self.name} did not start:\n{self.written()[-3000:]}")
                await asyncio.sleep(0.01)

    def written(self) -> str:
        return self.output.read_text("utf-8", "replace") if self.starts else ""

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.thawed = time.time()
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """As `kill -9`: at once, and it cannot say goodbye."""
        if self.running:
            self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    async def ended(self, seconds: float = PATIENCE) -> int:
        """Its exit code. Raises TimeoutError."""
        assert self.process is not None
        async with asyncio.timeout(seconds):
            while (code := self.process.poll()) is None:
                await asyncio.sleep(0.01)
        return code

    # ------------------------------------------------------------ what the system says of it

    @property
    def rss(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return int(found[1]) * 1024 if found else 0

    @property
    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


class Fake(Program):
    """A fake Ollama; its book outlives it."""

    host: str = "127.0.0.1"

    @property
    def book(self) -> Path:
        return self.folder / f"{self.name}.book"

    async def tell(self, *rules: Mapping[str, Any]) -> None:
        """Rules for requests to come, in order."""
        await self._call("POST", "/_fake/script", list(rules))

    async def forget(self) -> None:
        """No rules, an empty ledger; the book stays."""
        await self._call("POST", "/_fake/reset", None)

    async def counts(self) -> dict[str, int]:
        """What its engine did; entries of the ledger are in the book."""
        found = await self._call("GET", "/_fake/counts", None)
        return {name: int(value) for name, value in found["counts"].items()}

    async def _call(self, method: str, path: str, body: object) -> Any:
        raw = b"" if body is None else json.dumps(body).encode()
        reply = await ask((self.host, self.port), method, path, raw)
        assert reply.status == 200, reply
        return json.loads(reply.body)


class Sidecar(Program):
    """`ollama-wrap serve`, with eyes inside (`watched`)."""

    async def status(self) -> dict[str, Any]:
        return dict(await self._get("/api/distributed/status"))

    async def nodes(self) -> dict[str, dict[str, Any]]:
        found = await self._get("/api/distributed/nodes")
        return {node["id"]: node for node in found["nodes"]}

    async def metrics(self, name: str, **labels: str) -> float:
        """The sum of a metric over the series that have these labels."""
        found = await self._get("/api/distributed/metrics")
        return sum(
            float(one["value"])
            for one in found.get(f"ollama_wrap_{name}", ())
            if all(one["labels"].get(label) == value for label, value in labels.items())
        )

    async def until(self, node: str, *states: str, seconds: float = PATIENCE) -> float:
        """When a node was first seen in one of these states, by the loop's clock."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(seconds):
            while (await self.nodes())[node]["status"] not in states:
                await asyncio.sleep(0.02)
        return loop.time()

    async def look(self, what: str = "look") -> dict[str, Any]:
        """What `watched` sees inside of it; see there."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_unix_connection(self.folder / f"{self.name}.eye")
            writer.write(what.encode() + b"\n")
            answer = await reader.read()
            writer.close()
        return dict(json.loads(answer))

    def lines(self) -> list[dict[str, Any]]:
        """Everything that it logged as JSON."""
        made = []
        for line in self.written().splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(found := json.loads(line), dict):
                    made.append(found)
        return made

    async def _get(self, path: str) -> Any:
        reply = await ask(("127.0.0.1", self.port), "GET", path)
        assert reply.status == 200, reply
        return json.loads(reply.body)


async def ask(where: tuple[str, int], method: str, path: str, body: bytes = b"") -> RawReply:
    """One request of the run itself, on a connection of its own."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*where)
        try:
            writer.write(request_bytes(method, path, body, [("Connection", "close")]))
            return await read_reply(reader, method)
        finally:
            writer.close()


def fake(
    name: str,
    models: str,
    folder: Path,
    *,
    under: Sequence[str] = (),
    host: str = "127.0.0.1",
    options: Mapping[str, object],
) -> Fake:
    """A fake that is not started yet.

    `options` as in `ollama_wrap.testing.Options`; `book=False`: it writes none.
    """
    book = folder / f"{name}.book"
    command = [sys.executable, "-m", "ollama_wrap.testing", "--models", models]
    command += ["--node-name", name, "--host", host]
    command += ["--book", str(book)] if options.get("book", True) else []
    for option, value in options.items():
        if option == "book":
            continue
        flag = f"--{option.replace('_', '-')}"
        command += [flag] if value is True else [flag, str(value)]
    made = Fake(name, command, folder, under=under)
    made.host = host
    return made


def sidecar(name: str, folder: Path, settings: Mapping[str, str]) -> Sidecar:
    """A sidecar that is not started yet."""
    own = {
        "OLLAMA_WRAP_LISTEN": "127.0.0.1:0",
        "OLLAMA_WRAP_NODE_ID": name,
        "OLLAMA_WRAP_CONFIG_DIR": str(folder / f"{name}.config"),
        "OLLAMA_WRAP_STATE_DIR": str(folder / f"{name}.state"),
        "OLLAMA_WRAP_LOG_FORMAT": "json",
        "CHAOS_EYE": str(folder / f"{name}.eye"),
    }
    command = [sys.executable, "-m", "tests.chaos.watched", "serve"]
    return Sidecar(name, command, folder, {**own, **settings})
