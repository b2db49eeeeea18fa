"""Starts and ends the programs of the client tests: fake Ollamas and the sidecar, as processes.

Owns processes, free ports, how a fake is steered from outside, and what is said where a client
is not there. Knows nothing of any client.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).parents[2]
HERE = "words of the local one"
THERE = "phrases of another node"
LONG = "again "
PATIENCE = 20.0
"""Seconds that something gets to become true."""


def missing(client: str) -> NoReturn:
    """Skip by name, the whole file if it is being read; in CI every client has to be there."""
    reason = f"{client} is not here"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and in CI it has to be", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def on_path(name: str) -> str:
    """Return where a command is; skips, or fails in CI, where it is not on the PATH."""
    return shutil.which(name) or missing(f"`{name}`")


def compiler(name: str) -> str:
    """Return where a language's command is; skips where it is not, for CI installs none."""
    return shutil.which(name) or pytest.skip(f"`{name}` is not here")


@dataclass(slots=True)
class Program:
    """A running program that listens on loopback."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


@dataclass(slots=True)
class Fake(Program):
    """A fake Ollama in a process of its own."""

    def script(self, **rule: object) -> None:
        """Say what goes wrong next; see `ollama_wrap.testing.script.Rule`."""
        call(f"{self.url}/_fake/script", rule)

    def speaks_slowly(self, model: str) -> None:
        """The next answer of `model` takes longer than any test waits for its end."""
        self.script(model=model, say=LONG, repeat=3000, token_delay=0.02)

    def dies(self, model: str, after: int) -> None:
        """The process ends in the next answer of `model`, after so many tokens."""
        self.script(model=model, say=LONG, repeat=100, token_delay=0.02, die_after=after)

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = call(f"{self.url}/_fake/ledger")["counts"]
        return counts

    def saw(self, path: str) -> list[dict[str, object]]:
        """Return the requests to a path, oldest first, as the fake's ledger has them."""
        entries = call(f"{self.url}/_fake/ledger")["entries"]
        return [entry for entry in entries if entry["target"].partition("?")[0] == path]

    def is_free_again(self) -> None:
        """Wait until a generation was cancelled and none is running."""
        eventually(lambda: self.counts()["generations_cancelled"] > 0)
        assert self.counts()["running"] == 0

    def reset(self) -> None:
        call(f"{self.url}/_fake/reset", {})


@dataclass(frozen=True, slots=True)
class Cluster:
    """A sidecar before `local`; it knows `node` if its mode is distributed."""

    mode: str
    local: Fake
    node: Fake
    sidecar: Program

    @property
    def url(self) -> str:
        return self.sidecar.url

    @property
    def distributed(self) -> bool:
        return self.mode == "distributed"

    def stop(self) -> None:
        for program in (self.sidecar, self.local, self.node):
            program.stop()


def call(url: str, value: object = None, headers: Mapping[str, str] | None = None) -> Any:
    """Return the JSON that a GET answers, or a POST if there is a value to send."""
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(url, body, dict(headers or {}))
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that another process has to notice first."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            pytest.fail("it did not come true in time")
        time.sleep(0.02)


async def cancelled(fake: Fake, asked: Awaitable[object]) -> None:
    """Ask, and cancel it once the fake works for it; comes back when the fake is free again."""
    task = asyncio.ensure_future(asked)
    await asyncio.to_thread(eventually, lambda: fake.counts()["generations_started"] > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(fake.is_free_again)


def build(folder: Path, mode: str, **more: str) -> Cluster:
    """Start both fakes and the sidecar, and wait until it knows what it can know."""
    started: list[Program] = []
    try:
        local = _fake(folder, "local", "tiny,shared", HERE)
        started.append(local)
        node = _fake(folder, "node", "far,shared", THERE)
        started.append(node)
        for fake in (local, node):
            _learn_port(fake)
        nodes = {"OLLAMA_WRAP_NODES": f"b={node.url}"} if mode == "distributed" else {}
        sidecar = _sidecar(folder, local, **(nodes | more))
        started.append(sidecar)
        cluster = Cluster(mode, local, node, sidecar)
        eventually(lambda: _settled(cluster))
    except BaseException:
        for program in started:
            program.stop()
        raise
    return cluster


def _settled(cluster: Cluster) -> bool:
    """Whether the sidecar answers, and trusts the other node if it was told of it."""
    if cluster.sidecar.process.poll() is not None:
        pytest.fail(f"the sidecar ended:\n{cluster.sidecar.log.read_text()[-3000:]}")
    if not cluster.distributed:
        url, headers, body = f"{cluster.url}/api/version", {}, None
    else:
        # Of a model that both have, the other node comes first only if it is trusted.
        url, body = f"{cluster.url}/api/generate", {"model": "shared", "prompt": "hi"}
        headers = {"X-Dry-Run": "true", "X-Ollama-Route": "remote"}
    try:
        answer = call(url, body, headers)
    except OSError:
        return False
    return not cluster.distributed or answer["ranking"][0]["node"] == "b"


def _fake(folder: Path, name: str, models: str, say: str) -> Fake:
    options = ["--models", models, "--say", say, "--num-parallel", "4", "--registry", "pulled"]
    command = [sys.executable, "-m", "ollama_wrap.testing", "--port", "0", *options]
    return Fake(*_start(folder, name, command, port=0))


def _learn_port(fake: Fake) -> None:
    eventually(lambda: b"\n" in fake.log.read_bytes() or fake.process.poll() is not None)
    said = fake.log.read_text()
    if not said.startswith("listening on "):
        pytest.fail(f"a fake Ollama did not start:\n{said[-3000:]}")
    fake.port = int(said.split()[2].rpartition(":")[2])


def _sidecar(folder: Path, local: Program, **more: str) -> Program:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    settings = {
        "OLLAMA_WRAP_LISTEN": f"127.0.0.1:{port}",
        "OLLAMA_LOCAL_ADDR": local.url,
        "OLLAMA_WRAP_STORE": "memory",
        "OLLAMA_WRAP_STATE_DIR": str(folder / "state"),
        "OLLAMA_NUM_PARALLEL": "4",
    }
    command = [sys.executable, "-m", "ollama_wrap", "serve"]
    return Program(*_start(folder, "sidecar", command, port, **(settings | more)))


def _start(
    folder: Path, name: str, command: list[str], port: int, **more: str
) -> tuple[subprocess.Popen[bytes], int, Path]:
    """Start a program without the settings of whoever runs the tests."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=kept | {"HOME": str(folder)} | more,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return process, port, log
