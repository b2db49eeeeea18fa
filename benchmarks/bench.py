"""One run: the mocks, the candidates that are up, and one cell after the other.

Mocks and load generator share one core, the proxy under test has the other.
"""

import json
import os
import resource
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import candidates
import special
from candidates import CANDIDATES, FAR, HOLDERS, LOCAL, MANY, MODELS, MUTE, OTHERS, PROXIES
from cells import GENERATE, TESTS, Cell, arguments
from machine import (
    Process,
    busy_seconds,
    cores,
    cpu_seconds,
    forget_peak,
    listening,
    pinned,
    resident_kib,
)

#: seconds that a sidecar may take to know its nodes
PROBED = 10.0


class Bench:
    """Everything that runs. `build` holds the programs, and takes what they write."""

    def __init__(self, build: Path, names: Iterable[str]) -> None:
        self.build = build
        self.aside, self.core = cores()
        os.sched_setaffinity(0, {self.aside})
        self.up: dict[str, tuple[Process | None, int]] = {}
        self.next_id = 1
        self._ports_are_free()
        self.log = (build / "proxies.log").open("wb")
        self.mute = socket.create_server(("127.0.0.1", MUTE))
        self.mocks = [self._mock(LOCAL), self._mock(FAR)]
        if "wrap-20-nodes" in names:
            self.mocks.append(self._mock(MANY, OTHERS, MODELS, HOLDERS))

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for name in list(self.up):
            self.stop(name)
        for mock in self.mocks:
            mock.stop()
        self.mute.close()
        self.log.close()

    def _ports_are_free(self) -> None:
        for port in range(LOCAL, MUTE + 1):
            if listening(port):
                raise SystemExit(f"port {port} is taken: is another run going on?")

    def _mock(self, port: int, *shape: int) -> Process:
        lines_and_delay = (100, 0) if shape else ()
        command = [self.build / "mock", port, *lines_and_delay, *shape]
        made = Process(list(map(str, command)), {}, self.aside, self.log, self.build)
        made.wait_for(port)
        return made

    # candidates

    def start(self, name: str, *, warm: bool = True) -> None:
        """Raises RuntimeError where it does not come up."""
        candidate = CANDIDATES[name]
        if candidate.command is None:
            self.up[name] = (None, LOCAL)
            return
        port = PROXIES + list(CANDIDATES).index(name)
        folder = self.build / name
        folder.mkdir(exist_ok=True)
        command = candidate.command(folder, port)
        process = Process(command.argv, command.env, self.core, self.log, folder)
        self.up[name] = (process, port)
        try:
            process.wait_for(port)
        except RuntimeError:
            self.stop(name)
            raise
        if candidate.node is not None:
            self._routed(name, candidate.node, port)
        if warm:
            self.load(port, ["rps", "-c", "32", "-t", "0.7"])
            self.load(port, ["stream", "-c", "32", "-n", "50", "-t", "0.7"])

    def _routed(self, name: str, node: str, port: int) -> None:
        """Come back when calls go where this candidate is meant to send them."""
        end, found = time.monotonic() + PROBED, ("", "")
        ask = urllib.request.Request(f"http://127.0.0.1:{port}/api/generate", GENERATE.encode())
        while found != ("distributed", node):
            if time.monotonic() > end:
                self.stop(name)
                raise RuntimeError(f"{name}: mode and node are {found}, see proxies.log")
            time.sleep(0.2)
            with urllib.request.urlopen(ask, timeout=5) as reply:
                found = reply.headers["X-Ollama-Mode"], reply.headers["X-Ollama-Node"]

    def stop(self, name: str) -> None:
        process, _ = self.up.pop(name)
        if process is not None:
            process.stop()

    def load(self, port: int, load: list[str]) -> Cell:
        """What the load generator said; `error` where it could not."""
        command = [str(self.build / "load"), load[0], "-p", str(port), *load[1:]]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=180, check=False, **self.beside()
            )
            return json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            return {"error": "the load generator did not end"}
        except ValueError:
            return {"error": (done.stderr or done.stdout)[-200:]}

    def beside(self) -> dict[str, object]:
        """Arguments for Popen: the core of mock and load."""
        return pinned(self.aside)

    def streams(self, upstream: int) -> int:
        """Streams that run at a mock."""
        with urllib.request.urlopen(f"http://127.0.0.1:{upstream}/_stats", timeout=5) as reply:
            return json.load(reply)["streams"]

    # one cell

    def cell(self, name: str, test: str) -> Cell:
        if TESTS[test].fresh and name in self.up:
            self.stop(name)
        if name not in self.up:
            self.start(name, warm=test not in ("rest", "upload200"))
        process, port = self.up[name]
        pid = process.pid if process else None
        used = self._used(pid)
        found = self._measure(name, test, port, pid)
        now = self._used(pid)
        wall, cpu, mock, load = (now[key] - used[key] for key in ("wall", "cpu", "mock", "load"))
        found |= {"name": name, "test": test, "wall": wall, "cpu": cpu, "at": int(time.time())}
        found |= {"cpu_mock": mock, "cpu_load": load}
        found["foreign"] = max(
            now["core"] - used["core"] - cpu, now["aside"] - used["aside"] - mock - load
        ) / (wall or 1)
        if process is not None and process.ended:
            found["error"] = "the proxy died"
            self.stop(name)
        return found

    def _used(self, pid: int | None) -> dict[str, float]:
        busy = busy_seconds()
        # Ourselves too: some tests are sent by us.
        loads = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return {
            "wall": time.monotonic(),
            "cpu": cpu_seconds(pid) if pid else 0.0,
            "mock": sum(cpu_seconds(mock.pid) for mock in self.mocks),
            "load": sum(one.ru_utime + one.ru_stime for one in loads),
            "core": busy[self.core],
            "aside": busy[self.aside],
        }

    def _measure(self, name: str, test: str, port: int, pid: int | None) -> Cell:
        upstream = CANDIDATES[name].upstream
        if test in special.TESTS:
            return special.TESTS[test](self, port, pid)
        if test == "idle":
            return special.idle(self, port, pid, upstream)
        load = arguments(test, upstream, self.next_id)
        if load[0] == "cancel":
            self.next_id += 100
        if load[0] != "upload" or pid is None:
            return self.load(port, load)
        before = resident_kib(pid)
        forget_peak(pid)
        found = self.load(port, load)
        return found | {"before_kib": before, "peak_kib": resident_kib(pid, peak=True)}


def usable(name: str, test: str) -> bool:
    """Whether this test is made for this candidate."""
    only = TESTS[test].only
    return name in only if only else not candidates.CANDIDATES[name].special
