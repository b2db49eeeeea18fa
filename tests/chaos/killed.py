"""Kills a process that writes state, at one system call after the other, and looks what is left.

    python -m tests.chaos.killed FOLDER POINTS      prints {"points": …, "calls": …, "wrong": […]}

A program of its own, since it forks: each point is a process that opens the state, makes an
operator's choices, each acknowledged when it is made, remembers what nodes had, and closes. It is
traced and killed at the entry or the exit of its n-th system call. Another process then opens the
state. It must find what was acknowledged last, or what was being written; whole, in either case.
"""

import asyncio
import ctypes
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ollama_wrap.call import Mode
from ollama_wrap.clock import SystemClock
from ollama_wrap.cluster.choices import Choices, Overridable
from ollama_wrap.cluster.events import Events
from ollama_wrap.cluster.sightings import Sightings
from ollama_wrap.state import open_bus, open_store
from ollama_wrap.state.folder import Folder

TRACE_ME, GO_ON, OPTIONS = 0, 24, 0x4200
#: stops of system calls are told apart; threads are traced too; nobody outlives the tracer
TOLD_APART, THREADS, TOGETHER = 1, 8, 0x100000
ALL_THREADS = 0x40000000
CALL = signal.SIGTRAP | 0x80

SETTINGS = Overridable(distributed=None, standalone=False, fallback=True)
#: what is chosen, in this order
MODES = (Mode.LOCAL, Mode.STANDALONE, Mode.DISTRIBUTED, Mode.LOCAL)
SEEN = {f"registry.ollama.ai/library/m{n}:latest": float(n) for n in range(40)}

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


async def opened(folder: Path) -> tuple[Choices, Sightings, Callable[[], object]]:
    store = open_store("sqlite", folder)
    clock = SystemClock()
    choices = Choices(store, SETTINGS, Events(open_bus("sqlite"), "n", clock), lambda: None)
    sightings = Sightings(store, 1e12)
    await choices.load()
    await sightings.load(clock.now())
    return choices, sightings, store.close


def found(choices: Choices) -> tuple[str | None, bool]:
    return (choices.mode.value if choices.mode else None), choices.fallback


async def work(folder: Path, told: int) -> None:
    Folder(folder)
    choices, sightings, close = await opened(folder)
    for turn, mode in enumerate(MODES):
        await choices.choose_mode(mode)
        os.write(told, b".")
        await choices.choose_fallback(enabled=turn % 2 == 1)
        os.write(told, b".")
        sightings.saw(f"node{turn}", SEEN, float(turn))
        await sightings.save()
    await close()  # type: ignore[misc]


def steps() -> list[tuple[str | None, bool]]:
    """What is in force after no choice, after one, …"""
    made: list[tuple[str | None, bool]] = [(None, True)]
    for turn, mode in enumerate(MODES):
        made.append((mode.value, made[-1][1]))
        made.append((mode.value, turn % 2 == 1))
    return made


async def look(folder: Path, told: int) -> None:
    """Say what is there, as the next start would find it."""
    Folder(folder)
    choices, sightings, close = await opened(folder)
    nodes = [sightings.of(f"node{turn}") for turn in range(len(MODES))]
    whole = all(one is None or one.models == SEEN for one in nodes)
    moved = [one.name for one in folder.iterdir() if ".broken" in one.name]
    os.write(told, json.dumps([*found(choices), whole, moved]).encode())
    await close()  # type: ignore[misc]


def forked(task: Callable[[int], object], *, traced: bool) -> tuple[int, int]:
    """A child that does it; its id, and where it tells."""
    hears, tells = os.pipe()
    child = os.fork()
    if not child:
        _in_child(task, tells, traced=traced)
    os.close(tells)
    return child, hears


def _in_child(task: Callable[[int], object], tells: int, *, traced: bool) -> NoReturn:
    code = 1
    try:
        if traced:
            _libc.ptrace(TRACE_ME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
        task(tells)
        code = 0
    finally:
        os._exit(code)


def killed(folder: Path, point: int | None) -> tuple[int, int]:
    """Let it work until its `point`-th stop; how many stops there were, and what it told."""
    child, hears = forked(lambda told: asyncio.run(work(folder, told)), traced=True)
    os.waitpid(child, 0)
    if _libc.ptrace(OPTIONS, child, None, TOLD_APART | THREADS | TOGETHER):
        raise OSError(ctypes.get_errno(), "processes cannot be traced here")
    stops, at = 0, child
    pending = 0
    while True:
        _libc.ptrace(GO_ON, at, None, pending)
        at, status = os.waitpid(-1, ALL_THREADS)
        pending = 0
        if not os.WIFSTOPPED(status):
            if at == child:
                break
            # One thread has ended; the others run on.
            at, status = os.waitpid(-1, ALL_THREADS)
            if not os.WIFSTOPPED(status):
                break
        sort = os.WSTOPSIG(status)
        if sort == CALL:
            stops += 1
            if stops == point:
                os.kill(child, signal.SIGKILL)
        elif sort not in (signal.SIGTRAP, signal.SIGSTOP):
            pending = sort
    with os.fdopen(hears, "rb") as told:
        return stops, len(told.read())


def left(folder: Path) -> tuple[object, ...]:
    child, hears = forked(lambda told: asyncio.run(look(folder, told)), traced=False)
    with os.fdopen(hears, "rb") as told:
        said = told.read()
    os.waitpid(child, 0)
    return tuple(json.loads(said)) if said else ("could not be opened",)


def main() -> None:
    base, points = Path(sys.argv[1]), int(sys.argv[2])
    known = steps()
    total, _ = killed(base / "whole", None)
    wrong: list[str] = []
    if left(base / "whole") != (*known[-1], True, []):
        wrong.append(f"without a kill: {left(base / 'whole')}")
    count = min(points, total)
    for number in range(count):
        point, folder = 1 + number * total // count, base / "point"
        _, told = killed(folder, point)
        now = left(folder)
        # What was acknowledged last, or the one that was under way.
        if now not in [(mode, on, True, []) for mode, on in known[told : told + 2]]:
            wrong.append(f"call {point} of {total}, {told} acknowledged: {now}")
        shutil.rmtree(folder)
    print(json.dumps({"points": count, "calls": total, "wrong": wrong}))


if __name__ == "__main__":
    main()
