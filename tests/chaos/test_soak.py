"""Hours in minutes: C35, random events under mixed traffic, and what very many requests leave."""

import asyncio
import contextlib
import functools
import itertools
import json
import operator
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.faults import Fault
from tests.chaos.figures import Run
from tests.chaos.programs import Fake, Program
from tests.chaos.stage import Stage, host, stage
from tests.chaos.traffic import STREAMS, WHOLES

MIB = 1 << 20
#: requests of the leak run, and seconds of the soak
COUNT, SOAK = 200_000, 144.0
#: bytes of an answer that may come before it is cut: probes are cut by few of them only
PROBED = 1500
#: seconds of rest before what is left is counted
REST = 10.0

# ---------------------------------------------------------------- leaks


@pytest.mark.chaos
@pytest.mark.alone
@pytest.mark.once
async def test_c35_leaks_of_200000_requests(run: Run, tmp_path: Path) -> None:
    count = COUNT if run.full else 5000
    options: dict[str, object] = {"token_delay": 0, "say": "a b c", "book": False}
    run.note = f"{count:,} requests, 10 % left by their clients, 5 % failing; 12 connections."
    usual: dict[str, Any] = options
    hosts = {"local": host("tiny,failing", **usual), "r1": host("tiny", **usual)}
    async with stage(run, tmp_path, hosts) as on:
        fails = {"model": "failing", "status": 500, "body": '{"error":"no"}', "times": 0}
        await on["local"].tell(fails)
        await _load(on, 1000, [])
        await asyncio.sleep(1)
        before = await _state(on, _BEFORE)
        points: list[tuple[int, int]] = []
        objects: list[dict[str, int]] = []
        told = await _load(on, count, points, objects)
        await asyncio.sleep(REST if run.full else 1)
        after = await _state(on, _AFTER)

        wrong = {word: times for word, times in told.items() if word.startswith("wrong")}
        run.none("requests with another end than theirs", [f"{w}: {n}" for w, n in wrong.items()])
        slope = _slope(points[len(points) // 10 :]) * 100_000 / MIB
        run.timed("growth of memory in 100,000 requests", slope, 5, "MiB")
        _stay(run, before, after)
        run.none("types of objects that grow with each request", _growing(objects, count))
        run.seen("memory at the end", on.side.rss / MIB, "MiB")


async def _load(
    on: Stage,
    count: int,
    points: list[tuple[int, int]],
    objects: list[dict[str, int]] | None = None,
) -> dict[str, int]:
    """Run `load`; adds (requests, resident bytes) each second, and objects three times."""
    command = [sys.executable, "-m", "tests.chaos.load", "--port", str(on.side.port)]
    loader = Program("load", [*command, "--count", str(count)], on.folder)
    loader.start()
    looks = [0.2, 0.6, 0.95]
    try:
        while loader.running:
            await asyncio.sleep(1)
            # A fake remembers every request that it saw.
            for fake in on.fakes.values():
                await _forget(on, fake.name)
            numbers = [int(line) for line in loader.written().split() if line.isdigit()]
            done = numbers[-1] if numbers else 0
            points.append((done, on.side.rss))
            if objects is not None and looks and done >= looks[0] * count:
                looks.pop(0)
                objects.append((await on.side.look("objects"))["objects"])
        assert await loader.ended() == 0, loader.written()[-2000:]
    finally:
        loader.kill()
    return dict(json.loads(loader.written().splitlines()[-1]))


async def _forget(on: Stage, name: str) -> None:
    fails = {"model": "failing", "status": 500, "body": '{"error":"no"}', "times": 0}
    await on[name].forget()
    if name == "local":
        await on[name].tell(fails)


State = tuple[int, Counter[str]]
#: probes come and go: of before the most that was there counts, of after the least
_BEFORE, _AFTER = operator.or_, operator.and_


async def _state(on: Stage, put: Callable[[Counter[str], Counter[str]], Counter[str]]) -> State:
    """Files, and tasks by name, when nothing happens, as `put` puts some looks together."""
    files, tasks = list[int](), list[Counter[str]]()
    for _ in range(8):
        tasks.append(Counter((await on.side.look())["tasks"]))
        files.append(on.side.open_files)
        await asyncio.sleep(0.15)
    return min(files), functools.reduce(put, tasks)


def _stay(run: Run, before: State, after: State) -> None:
    run.most("files that stay open", after[0] - before[0], 5)
    run.none("tasks that stay", sorted((after[1] - before[1]).elements()))


def _slope(points: Sequence[tuple[int, int]]) -> float:
    """Bytes a request, by least squares."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def _growing(looks: Sequence[dict[str, int]], count: int) -> list[str]:
    """Types of which there are more at each look, by one in 200 requests at least."""
    found = []
    for kind in set().union(*looks) if len(looks) == 3 else ():
        first, second, third = (look.get(kind, 0) for look in looks)
        if min(second - first, third - second) > 0.35 * count / 200:
            found.append(f"{kind}: {first}, {second}, {third}")
    return found


# ---------------------------------------------------------------- soak


@pytest.mark.chaos
@pytest.mark.alone
@pytest.mark.once
async def test_c35_soak_of_random_events(run: Run, tmp_path: Path) -> None:
    run.divide(full=5, short=5)
    run.note = (
        "24 h at factor 600: mixed traffic, and something breaks every few seconds, one node at a "
        "time, so that a healthy holder exists. Intervals are divided by 5; shorter ones there "
        "are not."
    )
    hosts = {name: host(proxied=name != "local") for name in ("local", "r1", "r2")}
    dice = random.Random(7)
    async with stage(run, tmp_path, hosts) as on:
        loop = asyncio.get_running_loop()
        await on.client.keep(3)
        await on.client.done()
        before = await _state(on, _BEFORE)
        counts = dict.fromkeys(EVENTS, 0)
        async with on.client.traffic():
            end = loop.time() + (SOAK if run.full else 20)
            for name in itertools.chain(EVENTS, _chosen(dice)):
                if loop.time() >= end:
                    break
                counts[name] += 1
                async with _healed(on):
                    await EVENTS[name](on, dice)
        failed = on.client.failed()
        early = [one for one in failed if one.reply.status != 200 or not one.begun]
        begun = [one for one in failed if one not in early]
        broken = [one for one in begun if one.reply.clean_end]
        unmarked = [one for one in begun if one.form.stream and not one.marked]
        await asyncio.sleep(REST)
        after = await _state(on, _AFTER)

        run.none("failed before the first byte", early)
        run.none("broken, and ended as if they were whole", broken)
        run.none("streams that broke without the marker", unmarked)
        run.seen("answers that broke after their first byte", len(begun))
        run.seen("requests", len(on.client.told))
        run.seen("events", sum(counts.values()))
        _stay(run, before, after)


def _chosen(dice: random.Random) -> Iterator[str]:
    names = tuple(EVENTS)
    return (dice.choice(names) for _ in range(10_000))


@contextlib.asynccontextmanager
async def _healed(on: Stage) -> AsyncIterator[None]:
    """After an event every node comes back before the next one breaks."""
    yield
    for name in on.fakes:
        await on.side.until("tower" if name == "local" else name, "up", "warming", seconds=60)


def _node(dice: random.Random) -> str:
    return dice.choice(("local", "r1", "r2"))


async def _kill(on: Stage, dice: random.Random) -> None:
    name = _node(dice)
    on[name].kill()
    await asyncio.sleep(dice.uniform(0.5, 2))
    await on.restart(name)


async def _freeze(on: Stage, dice: random.Random) -> None:
    name = _node(dice)
    on[name].freeze()
    await asyncio.sleep(dice.uniform(0.2, 3))
    on[name].thaw()


async def _reset(on: Stage, dice: random.Random) -> None:
    proxy = on.proxies[dice.choice(("r1", "r2"))]
    proxy.fault = Fault(reset=dice.randrange(PROBED))
    await asyncio.sleep(0.5)
    proxy.fault = Fault()


async def _refuse(on: Stage, dice: random.Random) -> None:
    proxy = on.proxies[dice.choice(("r1", "r2"))]
    proxy.fault = Fault(refuse=True, rebooted=True)
    await asyncio.sleep(dice.uniform(0.2, 2))
    proxy.fault = Fault()


async def _hole(on: Stage, dice: random.Random) -> None:
    proxy = on.proxies[dice.choice(("r1", "r2"))]
    proxy.fault = Fault(black_hole=dice.randrange(1500))
    await asyncio.sleep(dice.uniform(0.5, 3))
    proxy.fault = Fault()


async def _half_close(on: Stage, dice: random.Random) -> None:
    proxy = on.proxies[dice.choice(("r1", "r2"))]
    proxy.fault = Fault(half_close=dice.randrange(PROBED))
    await asyncio.sleep(0.5)
    proxy.fault = Fault()


async def _late(on: Stage, dice: random.Random) -> None:
    proxy = on.proxies[dice.choice(("r1", "r2"))]
    proxy.fault = Fault(latency=0.05, jitter=0.05, slices=dice.randrange(1, 50), bandwidth=50_000)
    await asyncio.sleep(1)
    proxy.fault = Fault()


async def _garbage(on: Stage, dice: random.Random) -> None:
    raw = dice.choice(("garbage", "split-header", "two-lengths", "bad-status"))
    await _says(on[_node(dice)], {"method": "POST", "raw": raw, "times": 3})


async def _says(node: Fake, odd: dict[str, object]) -> None:
    """Odd answers for a second; one that nobody has had by then is not kept for the next event."""
    await node.tell({"route": "/api/*", **odd})
    await asyncio.sleep(1)
    await node.forget()


async def _engine(on: Stage, dice: random.Random) -> None:
    failure = dice.choice(("runner-stopped", "out-of-memory", "busy", "load-timeout"))
    await _says(on[_node(dice)], {"failure": failure, "times": 2})


async def _leave(on: Stage, dice: random.Random) -> None:
    loop = asyncio.get_running_loop()
    for number in range(20):
        task = on.client.start((*STREAMS, *WHOLES)[number % 6], rough=bool(number % 2))
        loop.call_later(dice.uniform(0, 0.3), task.cancel)
    await asyncio.sleep(0.5)


async def _reload(on: Stage, dice: random.Random) -> None:
    on.side.send(signal.SIGHUP)
    await asyncio.sleep(0.2)


EVENTS: dict[str, Callable[[Stage, random.Random], Awaitable[None]]] = {
    "kill": _kill,
    "freeze": _freeze,
    "reset": _reset,
    "refuse": _refuse,
    "hole": _hole,
    "half close": _half_close,
    "late": _late,
    "garbage": _garbage,
    "engine": _engine,
    "leave": _leave,
    "reload": _reload,
}
