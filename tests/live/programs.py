"""Starts and ends the programs of the live tests: stock Ollama daemons and the sidecar.

Owns processes, free ports, and what a fresh model store holds. Each daemon has its own home
and store below the folder it is given; its cloud is an address where nobody answers.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import ollama
import pytest

from tests.live.exchange import Address
from tests.live.tiny_gguf import write_embedding_model, write_sentence_model

SENTENCE = "The quick brown fox jumps over lazy dogs."
TEMPLATE = "{{ .Prompt }}"
NOBODY = "http://127.0.0.1:1"
CONTROL = "standin.json"
STARTING = 30.0
"""Seconds that a program gets until its port answers."""


def find_ollama() -> Path | None:
    """Return the daemon to test against: the one named by the environment, else the PATH's."""
    named = os.environ.get("OLLAMA_WRAP_TEST_OLLAMA") or shutil.which("ollama")
    return Path(named) if named else None


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(slots=True)
class Program:
    """A running program that listens on loopback; `name` is for messages."""

    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> Address:
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it and what it started, gently first."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._sweep()

    def kill(self) -> None:
        """End it and what it started at once, as a power cut does."""
        self._sweep()
        self.process.wait(10)

    def _sweep(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def start(name: str, command: list[str], folder: Path, port: int, **more: str) -> Program:
    """Start a program in its own process group and wait until its port accepts."""
    kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            env=kept | {"HOME": str(folder)} | more,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    program = Program(name, port, log, process)
    try:
        _wait(program)
    except BaseException:
        program.stop()
        raise
    return program


def _wait(program: Program) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end and program.process.poll() is None:
        try:
            with urllib.request.urlopen(f"{program.url}/api/version", timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"{program.name} did not start:\n{program.log.read_text()[-3000:]}")


def start_ollama(binary: Path, folder: Path, **more: str) -> Program:
    """Start `ollama serve` with its home and models in `folder`."""
    port = free_port()
    settings = {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_CLOUD_BASE_URL": NOBODY,
        # What runs longer than a test session never unloads by itself in the middle of it.
        "OLLAMA_KEEP_ALIVE": "1h",
        # Read by a stand-in engine, if this Ollama has one.
        "STANDIN_CONTROL": str(folder / CONTROL),
    }
    return start("ollama", [str(binary), "serve"], folder, port, **(settings | more))


def start_sidecar(local: Program, folder: Path, **more: str) -> Program:
    """Start `ollama-wrap serve` in front of `local`."""
    port = free_port()
    settings = {
        "OLLAMA_WRAP_LISTEN": f"127.0.0.1:{port}",
        "OLLAMA_LOCAL_ADDR": local.url,
        "OLLAMA_WRAP_STORE": "memory",
        "OLLAMA_WRAP_STATE_DIR": str(folder / "state"),
    }
    command = [sys.executable, "-m", "ollama_wrap", "serve"]
    return start("sidecar", command, folder, port, **(settings | more))


def seed(daemon: Program, folder: Path, sentence: str, *models: str, embedder: str = "") -> None:
    """Create `models`, which say `sentence`, and a model that embeds if it is named."""
    file = folder / "model.gguf"
    with ollama.Client(host=daemon.url) as client:
        write_sentence_model(file, sentence)
        files = {"model.gguf": client.create_blob(file)}
        for model in models:
            client.create(model=model, files=files, template=TEMPLATE)
        if embedder:
            write_embedding_model(file)
            files = {"model.gguf": client.create_blob(file)}
            client.create(model=embedder, files=files, template=TEMPLATE)
    file.unlink()


def twins(binary: Path, folder: Path) -> tuple[Program, Program]:
    """Start two daemons that cannot be told apart: same models, same keys, same dates."""
    # Names of one length: paths in answers make no difference to the length of a body.
    one, two = folder / "one", folder / "two"
    first = start_ollama(binary, one)
    try:
        seed(first, folder, SENTENCE, "tiny", "llama3.2:1b", embedder="embedder")
    finally:
        first.stop()
    _spread_dates(one)
    shutil.copytree(one, two)
    first = start_ollama(binary, one)
    try:
        return first, start_ollama(binary, two)
    except BaseException:
        first.stop()
        raise


def _spread_dates(folder: Path) -> None:
    """Date the models a minute apart: stock lists those of one second in any order."""
    manifests = (file for file in (folder / "models" / "manifests").rglob("*") if file.is_file())
    for minute, manifest in enumerate(sorted(manifests)):
        os.utime(manifest, (1_750_000_000 + 60 * minute,) * 2)
