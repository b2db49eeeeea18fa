"""A guard against slipping back: what a request and a token cost, beside a fixed piece of Python.

    python guard.py             compare with guard.json; ends with 1 where something costs too much
    python guard.py --record    write what it costs now into guard.json
    python guard.py --show      the ratios, as JSON

CPU time of this thread, in turns: the reference, requests, a stream. Of all turns the cheapest of
each kind counts: what disturbs only ever adds. The ratio depends on the version of Python, so each
has its own figures; a version without any is not compared.
"""

import argparse
import asyncio
import contextlib
import email.parser
import gc
import json
import os
import sys
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from wireless import END, MODEL, Client, Loop, Node, connections, sidecar  # noqa: E402

from ollama_wrap.observe import log  # noqa: E402

KEPT = HERE / "guard.json"
#: how much more than recorded is a loss: above what noise does, below what matters
ALLOWED = 1.25
TURNS = 150
CLIENTS, REQUESTS, TOKENS = 16, 3, 1500

_BODY = {"model": MODEL, "prompt": "Why is the sky blue?", "options": {"temperature": 0.7}}
_HEAD = (
    "POST /api/generate HTTP/1.1\r\nHost: localhost:11434\r\n"
    "User-Agent: ollama-python/0.6.0 (x86_64 linux) Python/3.11.7\r\nAccept: */*\r\n"
    "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)


def request(*, stream: bool) -> bytes:
    body = json.dumps(_BODY | {"stream": stream})
    return (_HEAD.format(len(body)) + body).encode()


def whole() -> bytes:
    """An answer that is not streamed."""
    said = {"model": MODEL, "response": "lorem ipsum " * 70, "done": True, "eval_count": 180}
    body = json.dumps(said).encode()
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def streamed() -> list[bytes]:
    """An answer of so many lines, each a chunk as Go writes it."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    pieces = [head + b"Transfer-Encoding: chunked\r\n\r\n"]
    for at in range(TOKENS):
        said = {"model": MODEL, "created_at": "2026-01-02T03:04:05Z", "response": f"word{at:05}"}
        line = json.dumps(said | {"done": at == TOKENS - 1}).encode() + b"\n"
        pieces.append(b"%x\r\n%s\r\n" % (len(line), line))
    return [*pieces, END]


_FIELDS = "".join(f"X-Field-{at}: value {at}; with=parameter\r\n" for at in range(12)) + "\r\n"


def reference(times: int = 120) -> int:
    """Python that never changes: much code, little of it in C."""
    seen = 0
    for at in range(times):
        message = email.parser.HeaderParser().parsestr(_FIELDS)
        seen += sum(len(value) for _, value in message.items())
        parts = urllib.parse.urlsplit(f"http://node{at}.example:11434/a/b?c={at}&d=e#f")
        seen += len(urllib.parse.parse_qsl(parts.query)) + len(urllib.parse.quote(f"ü/{at}"))
        seen += len(json.dumps(_BODY, indent=1)) + len(str(parts.port))
    return seen


def _spent(started: int) -> int:
    return time.thread_time_ns() - started


async def _turn(clients: Sequence[Client], times: int) -> int:
    """Nanoseconds of so many requests on each connection."""
    gc.collect()
    started = time.thread_time_ns()
    await asyncio.gather(*(client.start(times) for client in clients))
    log.flush()  # what is put off is paid here too
    return _spent(started)


def _referred() -> int:
    gc.collect()
    started = time.thread_time_ns()
    reference()
    return _spent(started)


async def measured() -> dict[str, float]:
    """Cost of a request and of a token, in references of 1/1000."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    answer, lines = whole(), streamed()
    costs: dict[str, list[int]] = {"request": [], "token": [], "reference": []}
    loop.node = lambda loop: Node(loop, [answer])
    many = connections(sidecar(), CLIENTS, request(stream=False), answer[-16:])
    await _turn(many, 2)
    loop.node = lambda loop: Node(loop, lines)
    (one,) = connections(sidecar(), 1, request(stream=True), END)
    await _turn([one], 1)
    _right(many, CLIENTS * 2 * len(answer), one)
    for _ in range(TURNS):
        costs["reference"].append(_referred())
        costs["request"].append(await _turn(many, REQUESTS))
        costs["token"].append(await _turn([one], 1))
    least = {name: min(values) for name, values in costs.items()}
    return {
        "request": round(least["request"] / (CLIENTS * REQUESTS) / least["reference"] * 1000, 3),
        "token": round(least["token"] / TOKENS / least["reference"] * 1000, 3),
    }


def _right(many: Sequence[Client], bytes_of_answers: int, one: Client) -> None:
    """What is measured is a data path that works, in the mode that is meant."""
    for client in (*many, one):
        if b" 200 " not in client.head[:20] or b"\r\nX-Ollama-Mode: distributed" not in client.head:
            raise SystemExit(f"not the data path that is meant:\n{client.head.decode()}")
    if sum(client.got for client in many) < bytes_of_answers or one.got < sum(map(len, streamed())):
        raise SystemExit("bytes are missing")


def measure() -> dict[str, float]:
    """A run of its own; request lines go nowhere."""
    log.configure("info", "logfmt")
    with (
        open(os.devnull, "w") as nowhere,  # noqa: PTH123
        contextlib.redirect_stderr(nowhere),
        asyncio.Runner(loop_factory=lambda: Loop(lambda loop: Node(loop, []))) as runner,
    ):
        found = runner.run(measured())
        log.flush()
    return found


def compare(kept: dict[str, float]) -> bool:
    """Whether nothing costs too much; what does is measured twice more."""
    least: dict[str, float] = {}
    for _ in range(3):
        now = measure()
        least = {name: min(cost, least.get(name, cost)) for name, cost in now.items()}
        if all(cost <= kept[name] * ALLOWED for name, cost in least.items()):
            break
    right = True
    for name, cost in least.items():
        share = cost / kept[name]
        right = right and share <= ALLOWED
        word = "ok" if share <= ALLOWED else f"FAIL, more than {ALLOWED:g}"
        print(f"cost of a {name}: {share:.2f} of what guard.json says ({word})")
    return right


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--show", action="store_true")
    chosen = parser.parse_args()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if chosen.show:
        print(json.dumps(measure()))
        return 0
    if chosen.record:
        runs = [measure() for _ in range(3)]
        kept[version] = {name: min(run[name] for run in runs) for name in runs[0]}
        KEPT.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
        return 0
    if version not in kept:
        print(f"guard.json has no figures for Python {version}: nothing is compared")
        return 0
    return 0 if compare(kept[version]) else 1


if __name__ == "__main__":
    sys.exit(main())
