"""Tests that the load generator alone cannot do."""

import http.client
import json
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from cells import TESTS as _TESTS
from cells import Cell
from machine import resident_kib

if TYPE_CHECKING:
    from bench import Bench

#: seconds that a process rests before its memory is read
REST = 5.0
#: answers to `/api/tags`, and the pause between two
LISTS, BETWEEN = 200, 0.02
#: streams that must not notice a body of this size
BESIDE = ["stream", "-c", "16", "-n", "100", "-i", "20000", "-w", "0.5", "-t", "4"]
LARGE = 32 * 1024 * 1024 - 4096
#: seconds until 1,000 streams are open
OPEN = 11.0


def rest(_: "Bench", __: int, pid: int | None) -> Cell:
    """Memory of a sidecar that has nothing to do."""
    time.sleep(REST)
    return {"rest_kib": resident_kib(pid) if pid else 0}


def tags(_: "Bench", port: int, __: int | None) -> Cell:
    """`/api/tags`, on one connection, one after the other."""
    times = []
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(LISTS):
        started = time.perf_counter()
        client.request("GET", "/api/tags")
        reply = client.getresponse()
        body = reply.read()
        times.append((time.perf_counter() - started) * 1e6)
        if reply.status != 200 or not json.loads(body)["models"]:
            return {"error": f"/api/tags: {reply.status} {body[:80]!r}"}
        time.sleep(BETWEEN)
    client.close()
    p99 = sorted(times)[int(LISTS * 0.99)]
    return {"p50": statistics.median(times), "p99": p99, "max": max(times)}


def large() -> bytes:
    """A long chat, its model at the end: half of it one picture, half very many messages."""
    head = b'{"stream":false,"messages":[{"role":"user","content":"look","images":["'
    said = b'{"role":"user","content":"%b"},' % (b'Some words, \\"more\\" of them, a line.\\n' * 16)
    tail = b'"]},' + said * (LARGE // 2 // len(said)) + b'{}],"model":"llama3.2:1b"}'
    return head + b"QUJD" * ((LARGE - len(head) - len(tail)) // 4) + tail


def pause(bench: "Bench", port: int, _: int | None) -> Cell:
    """Paced streams while bodies of 32 MiB come in that have to be read to find their model."""
    body = large()
    ended, statuses = threading.Event(), []

    def post() -> None:
        time.sleep(1)
        while not ended.wait(0.3):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            client.request("POST", "/api/chat", body, {"Content-Type": "application/json"})
            statuses.append(client.getresponse().status)
            client.close()

    poster = threading.Thread(target=post, daemon=True)
    poster.start()
    found = bench.load(port, BESIDE)
    ended.set()
    poster.join(30)
    if set(statuses) != {200}:
        return {"error": f"answers to large bodies: {statuses}"}
    return found | {"bodies": len(statuses)}


def idle(bench: "Bench", port: int, pid: int | None, upstream: int) -> Cell:
    """Memory of 1,000 open streams on which next to nothing passes."""
    before = resident_kib(pid) if pid else 0
    command = [str(bench.build / "load"), "stream", "-p", str(port), *_TESTS["idle"].load[1:]]
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **bench.beside())
    time.sleep(OPEN)
    streams = bench.streams(upstream)
    grown = resident_kib(pid) - before if pid else 0
    said, _ = load.communicate(timeout=60)
    measured = {"kib_per_stream": grown / 1000, "before_kib": before, "streams": streams}
    return json.loads(said) | measured


TESTS: Mapping[str, Callable[["Bench", int, int | None], Cell]] = {
    "rest": rest,
    "tags": tags,
    "pause": pause,
}
