"""Mutated requests, and nodes with mutated answers: C19, C20."""

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.figures import Run
from tests.chaos.programs import Fake
from tests.chaos.stage import Stage, host, stage
from tests.chaos.traffic import WHOLES, percentile
from tests.fakes.raw_http import read_reply, request_bytes

MIB = 1 << 20
#: mutations of one repetition; five of them are 100,000
COUNT = 20_000
PROGRAM = [sys.executable, "-m", "tests.chaos.mutate"]


async def _told(on: Stage, *arguments: str) -> dict[str, Any]:
    """What `mutate requests` prints."""
    sender = Fake("requests", [*PROGRAM, "requests", *arguments], on.folder)
    sender.start()
    try:
        await sender.ended(120)
    finally:
        sender.kill()
    return dict(json.loads(sender.written()))


@contextlib.asynccontextmanager
async def _healthy(on: Stage, usual: float) -> AsyncIterator[None]:
    """Healthy requests around the block, held to twice their usual p99."""
    at = len(on.client.told)
    async with on.client.traffic():
        yield
    p99 = percentile((one.took for one in on.client.told[at:]), 0.99)
    on.run.timed("p99 of healthy requests", p99 * 1000, 2 * usual * 1000, "ms")
    on.run.none("healthy requests that failed", on.client.failed())


async def _usual(on: Stage) -> float:
    await on.client.keep(3)
    await on.client.done()
    usual = percentile((one.took for one in on.client.told), 0.99)
    on.run.seen("usual p99", usual * 1000, "ms")
    return usual


@pytest.mark.chaos
@pytest.mark.alone
async def test_c19_mutated_requests(run: Run, tmp_path: Path) -> None:
    hosts = {"local": host(token_delay=0.005), "r1": host(token_delay=0.005)}
    async with stage(run, tmp_path, hosts) as on:
        usual = await _usual(on)
        fixed = ["--port", str(on.side.port)]
        # What is allocated once, for whatever may come, is no growth.
        await _told(on, *fixed, "--seed", f"{run.repetition}9", "--count", "3000", "--seconds", "3")
        base = on.side.rss
        arguments = [*fixed, "--seed", str(run.repetition)]
        async with _healthy(on, usual):
            told = await _told(on, *arguments, "--count", str(COUNT), "--seconds", "18")
        run.least("requests", told["sent"], COUNT)
        run.seen("connections", told["connections"])
        run.least("answers", sum(told["statuses"].values()), COUNT / 10)
        run.none("answers of our own with 5xx, but 501 and 505", told["ours"])
        run.must("the process lives", on.side.running)
        run.most("growth of memory", (on.side.rss - base) / MIB, 20, "MiB")


@pytest.mark.chaos
@pytest.mark.alone
async def test_c20_mutated_answers(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    odd = Fake("odd", [*PROGRAM, "answers", "--seed", str(run.repetition)], folder)
    settings = {
        "OLLAMA_WRAP_CIRCUIT_FAILURES": "1000000",
        "OLLAMA_WRAP_CIRCUIT_SHARE": "1",
        "OLLAMA_WRAP_CIRCUIT_MODEL_FAILURES": "1000000",
    }
    odd.start()
    try:
        nodes = f"r1=http://127.0.0.1:{await odd.listens()}"
        hosts = {"local": host(token_delay=0.005)}
        async with stage(run, tmp_path, hosts, {**settings, "OLLAMA_WRAP_NODES": nodes}) as on:
            usual = await _usual(on)
            await on.ready(["r1"])
            await _ask(on, 3000, 3)
            base = on.side.rss
            async with _healthy(on, usual):
                statuses, stuck = await _ask(on, COUNT, 18)
            answered = sum(statuses.values())
            run.least("requests answered", answered, COUNT * 0.99)
            run.most("requests that hang", stuck, 0)
            run.seen("200 as it came, or with a broken end", statuses["200"])
            run.seen("502 and 503", statuses["502"] + statuses["503"])
            ours = statuses["500 of our own"] + statuses["504 of our own"]
            run.most("other errors of our own", ours, 0)
            run.must("the process lives", on.side.running)
            run.most("growth of memory", (on.side.rss - base) / MIB, 20, "MiB")
    finally:
        odd.kill()


async def _ask(on: Stage, count: int, seconds: float) -> tuple[Counter[str], int]:
    """So many requests for the model of the node that lies; statuses, and how many hang."""
    form, loop = WHOLES[0], asyncio.get_running_loop()
    body = form.body("odd", "why")
    raw = request_bytes("POST", form.path, body, [("Connection", "close")])
    statuses: Counter[str] = Counter()
    began, sent, stuck = loop.time(), 0, 0

    async def work() -> None:
        nonlocal sent, stuck
        while sent < count:
            sent += 1
            await asyncio.sleep(max(0.0, began + sent * seconds / count - loop.time()))
            try:
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection("127.0.0.1", on.side.port)
                    writer.write(raw)
                    reply = await read_reply(reader, "POST")
                    writer.transport.abort()
            except TimeoutError:
                stuck += 1
                continue
            own = reply.status >= 500 and reply.header("x-ollama-node") is None
            fair = reply.status in {502, 503} or not own
            statuses[str(reply.status) if fair else f"{reply.status} of our own"] += 1

    await asyncio.gather(*(work() for _ in range(50)))
    return statuses, stuck
