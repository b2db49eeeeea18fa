"""`ollama-wrap serve` with eyes: run as `python -m tests.chaos.watched serve`.

A thread beside the loop measures how late it is every 50 ms, and answers questions on the Unix
socket CHAOS_EYE names: `look` (tasks, lag), `objects` (living objects by type), `rest` (forget
the lag so far).
"""

import asyncio
import gc
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ollama_wrap.cli import main

#: seconds between two looks at the loop's lag
EVERY = 0.05
#: types of living objects that are told
MOST = 40


class Eye:
    """Looks at the loop from a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._lags: list[float] = []
        self._sock = socket.socket(socket.AF_UNIX)
        path.unlink(missing_ok=True)
        self._sock.bind(str(path))
        self._sock.listen()

    def watch(self) -> None:
        """Measure and answer for ever."""
        loop = self._loop()
        threading.Thread(target=self._measure, args=(loop,), daemon=True).start()
        while True:
            peer, _ = self._sock.accept()
            with peer:
                question = peer.recv(100).decode().strip()
                peer.sendall(json.dumps(self._answer(loop, question)).encode())

    def _loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the main thread runs, once it does."""
        main_thread = threading.main_thread().ident or 0
        while True:
            frame = sys._current_frames().get(main_thread)
            while frame is not None:
                runner = frame.f_locals.get("self")
                if isinstance(runner, asyncio.Runner) and frame.f_code.co_name == "run":
                    return runner.get_loop()
                frame = frame.f_back
            time.sleep(EVERY)

    def _measure(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            began = time.monotonic()
            came = threading.Event()
            try:
                loop.call_soon_threadsafe(came.set)
            except RuntimeError:
                return  # the loop is closed
            came.wait()
            self._lags.append(time.monotonic() - began)
            time.sleep(EVERY)

    def _answer(self, loop: asyncio.AbstractEventLoop, question: str) -> dict[str, Any]:
        if question == "rest":
            self._lags.clear()
            return {}
        if question == "objects":
            return self._within(loop, _objects)
        lags = sorted(self._lags)
        seen: dict[str, Any] = self._within(loop, _tasks)
        at = min(len(lags) - 1, len(lags) * 99 // 100)
        seen["lag"] = {"p99": lags[at], "max": lags[-1], "count": len(lags)} if lags else {}
        return seen

    def _within(self, loop: asyncio.AbstractEventLoop, look: Any) -> dict[str, Any]:
        """What `look` finds, asked in the loop's own thread."""
        found: dict[str, Any] = {}
        done = threading.Event()

        def run() -> None:
            found.update(look(loop))
            done.set()

        loop.call_soon_threadsafe(run)
        done.wait(10)
        return found


def _tasks(loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    names = Counter(task.get_name() for task in asyncio.all_tasks(loop))
    return {"tasks": dict(names), "task_count": sum(names.values())}


def _objects(_: asyncio.AbstractEventLoop) -> dict[str, Any]:
    gc.collect()
    kinds = Counter(type(one).__qualname__ for one in gc.get_objects())
    return {"objects": dict(kinds.most_common(MOST)), "total": kinds.total()}


def _passed(number: int) -> None:
    """Take a socket as systemd passes one."""
    os.dup2(number, 3)
    os.environ["LISTEN_PID"], os.environ["LISTEN_FDS"] = str(os.getpid()), "1"


if __name__ == "__main__":
    if passed := os.environ.pop("CHAOS_SOCKET", ""):
        _passed(int(passed))
    eye = Eye(Path(os.environ.pop("CHAOS_EYE")))
    threading.Thread(target=eye.watch, daemon=True).start()
    sys.exit(main())
