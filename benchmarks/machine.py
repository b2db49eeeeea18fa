"""Processes that are pinned to a core, and what the kernel says of them. Linux only."""

import contextlib
import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

#: settings of the shell that would make a sidecar another one than the candidate says
OURS = ("OLLAMA_", "NODE_ID", "API_LISTEN", "LOG_LEVEL", "BOOTSTRAP", "P2P_", "RAFT_")


def cores() -> tuple[int, int]:
    """The core of mock and load generator, and the core of the proxy."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("benchmarks need two cores: one for the proxy, one for its neighbours")
    return allowed[0], allowed[1]


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                todo += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process tree so far."""
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                total += int(Path(f"/proc/{one}/task/{task}/schedstat").read_text().split()[0])
    return total / 1e9


def resident_kib(pid: int, *, peak: bool = False) -> int:
    """Memory of a process tree now, or its peak since `forget_peak`."""
    name, where = ("VmHWM:", "status") if peak else ("Rss:", "smaps_rollup")
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{one}/{where}").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(name))
    return total


def forget_peak(pid: int) -> None:
    for one in tree(pid):
        Path(f"/proc/{one}/clear_refs").write_text("5")


def busy_seconds() -> dict[int, float]:
    """Busy time of each core since boot by the kernel's account: nice, irq and steal included."""
    busy = {}
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("cpu") and line[3].isdigit():
            fields = line.split()
            ticks = sum(map(int, fields[1:9])) - int(fields[4]) - int(fields[5])
            busy[int(fields[0][3:])] = ticks / os.sysconf("SC_CLK_TCK")
    return busy


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def pinned(core: int) -> dict[str, object]:
    """Arguments for Popen."""
    return {"preexec_fn": lambda: os.sched_setaffinity(0, {core})}


class Process:
    """A program of ours on one core."""

    def __init__(
        self, command: Sequence[str], more: Mapping[str, str], core: int, log: IO[bytes], cwd: Path
    ) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        self.popen = subprocess.Popen(
            command,
            env={**clean, **more},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=cwd,
            start_new_session=True,
            **pinned(core),
        )
        self.pid = self.popen.pid

    @property
    def ended(self) -> bool:
        return self.popen.poll() is not None

    def wait_for(self, port: int, seconds: float = 30) -> None:
        """Come back when it listens. Raises RuntimeError."""
        end = time.monotonic() + seconds
        while not listening(port):
            if self.ended:
                raise RuntimeError(f"ended with {self.popen.returncode}, see proxies.log")
            if time.monotonic() > end:
                raise RuntimeError(f"does not listen after {seconds:g} s, see proxies.log")
            time.sleep(0.1)

    def stop(self) -> None:
        own = tree(self.pid)
        self.popen.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(3)
        for pid in own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()


def description() -> str:
    """The machine in one line."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{model}, {os.cpu_count()} cores, {pages / 2**30:.0f} GiB, Linux {platform.release()}"
