"""Nodes that die, freeze, vanish, flap, and all at once: C1, C2, C4, C5, C12, C13, C14."""

import asyncio
import math
import time
from pathlib import Path

import pytest

from tests.chaos import spaces
from tests.chaos.faults import Fault
from tests.chaos.figures import Run
from tests.chaos.stage import Stage, host, stage
from tests.chaos.traffic import STREAMS, WHOLES, Told

WAITS = {"route": "/api/*", "method": "POST", "prompt_delay": 60.0, "times": 0}
WAITS_V1 = {**WAITS, "route": "/v1/*"}


def tried(told: Told, node: str) -> bool:
    """Whether a request was sent to a node."""
    return told.node == node or any(one.startswith(f"{node}:") for one in told.attempts)


def hanging(on: Stage, node: str, since: float) -> list[Told]:
    """Requests that a node had, unanswered, at some time of the wall."""
    marks = {
        one.mark
        for one in on.inferred()
        if one.node == node and one.came < since and (one.ended is None or one.ended > since)
    }
    return [told for told in on.client.told if told.mark in marks]


async def crowd(on: Stage, node: str, count: int = 3) -> None:
    """More requests, until so many wait at a node for their first byte."""
    for _ in range(100):
        waiting = [one for one in hanging(on, node, time.time()) if one.first is None]
        if len(waiting) >= count:
            return
        on.client.start(WHOLES[0])
        await asyncio.sleep(0.03)


def moved_after(on: Stage, moved: list[Told], since: float) -> float | None:
    """Seconds until the last of these was at another node; None of none."""
    marks = {one.mark for one in moved}
    came = [one.came - since for one in on.inferred() if one.mark in marks and one.came > since]
    return max(came, default=None)


async def test_c1_node_is_killed_before_the_first_byte(run: Run, tmp_path: Path) -> None:
    hosts = {"r1": host(), "r2": host()}
    async with stage(run, tmp_path, hosts) as on:
        loop = asyncio.get_running_loop()
        async with on.client.traffic():
            await asyncio.sleep(run.seconds / 4)
            await on["r1"].tell(WAITS, WAITS_V1)
            await asyncio.sleep(1.0)
            await crowd(on, "r1")
            # Streams that r1 had begun before are over by now.
            killed, at = time.time(), loop.time()
            on["r1"].kill()
            run.within("down, with traffic", await on.side.until("r1", "down") - at, 1.5)
            await asyncio.sleep(run.seconds / 4)
        waited = hanging(on, "r1", killed)
        again = [one for one in on.client.told if one.began > killed + 1.0 and tried(one, "r1")]

        at = loop.time()
        on["r2"].kill()
        run.within("down, without traffic", await on.side.until("r2", "down") - at, 4.0)

        run.least("requests that waited there", len(waited), 1)
        run.none("failed", on.client.failed())
        run.none("sent there more than 1 s later", again)
        run.seen("requests", len(on.client.told))


async def test_c2_node_is_killed_in_mid_stream(run: Run, tmp_path: Path) -> None:
    hosts = {name: host(token_delay=0.1) for name in ("local", "r1", "r2")}
    async with stage(run, tmp_path, hosts) as on:
        async with on.client.traffic():
            await asyncio.sleep(max(2.0, run.seconds / 3))
            killed = time.time()
            on["r1"].kill()
            await asyncio.sleep(max(1.0, run.seconds / 3))
        had = hanging(on, "r1", killed)
        cut = [one for one in had if one.first is not None and one.first < killed]
        moved = [one for one in had if one not in cut]
        others = [one for one in on.client.failed() if one not in cut]

        run.least("streams cut", len(cut), 1)
        run.none("cut without the marker, or ended cleanly", [o for o in cut if not o.marked])
        run.none("other requests that failed", others)
        run.none("waiting requests that failed", [one for one in moved if not one.good])
        run.seen("waiting requests moved", len(moved))


async def test_c4_node_is_frozen_and_goes_on(run: Run, tmp_path: Path) -> None:
    run.divide(full=4, short=5)
    frozen_for = 30 / run.factor if run.full else 3.5
    hosts = {"r1": host("tiny,solo"), "r2": host()}
    # What is not timed need not be waited for.
    hurry = {} if run.full else {"OLLAMA_WRAP_HEALTH_WARMING": "1s"}
    async with stage(run, tmp_path, hosts, hurry) as on:
        loop = asyncio.get_running_loop()
        async with on.client.traffic():
            await asyncio.sleep(2 if run.full else 1)
            slow = {"route": "/api/*", "method": "POST", "token_delay": 0.2, "times": 6}
            await on["r1"].tell(slow, {**slow, "prompt_delay": 1.5, "times": 0})
            await asyncio.sleep(1.0)
            await crowd(on, "r1")
            frozen = time.time()
            on["r1"].freeze()
            alone = [on.client.start(form, "solo") for form in (STREAMS[0], WHOLES[0])]
            await asyncio.sleep(frozen_for)
            moved = [one for one in hanging(on, "r1", frozen) if one.node not in {"", "r1"}]
            on["r1"].thaw()
            await on["r1"].forget()
            thawed = loop.time()
            back = await on.side.until("r1", "up", seconds=40) - thawed
            await asyncio.sleep(1)
        begun = [
            one
            for one in on.client.told
            if one.node == "r1" and one.first is not None and one.first < frozen < one.ended
        ]
        run.least("waiting requests moved", len(moved), 1)
        run.within("moved", moved_after(on, moved, frozen), 9.0)
        run.none("streams that had begun and did not go on", [o for o in begun if not o.good])
        run.must("requests that no other node can take wait", all(t.result().good for t in alone))
        run.none("failed", on.client.failed())
        run.within("full weight again", back, 40.0)
        run.seen("streams that had begun there", len(begun))


@pytest.mark.chaos
async def test_c5_host_vanishes_and_packets_with_it(run: Run, tmp_path: Path) -> None:
    if spaces.lacking():
        pytest.skip(spaces.lacking())
    hosts = {"r1": host("tiny,solo", apart=True), "r2": host()}
    async with stage(run, tmp_path, hosts) as on:
        loop = asyncio.get_running_loop()
        async with on.client.traffic():
            await asyncio.sleep(run.seconds / 5)
            slow = {"route": "/*", "method": "POST", "token_delay": 1.0, "times": 11}
            await on["r1"].tell(slow, {**WAITS, "route": "/*"})
            # Whoever else may take requests, these streams begin there.
            for form in STREAMS:
                on.client.start(form, "solo")
            await asyncio.sleep(4)
            await crowd(on, "r1")
            gone, at = time.time(), loop.time()
            spaces.vanish(on["r1"])
            run.within("down", await on.side.until("r1", "down") - at, 8.0)
            await asyncio.sleep(3)
        had = hanging(on, "r1", gone)
        begun = [one for one in had if one.first is not None and one.first < gone]
        waited = [one for one in had if one not in begun]
        late = [one for one in on.client.told if one.began > gone + 8.0 and tried(one, "r1")]
        others = [one for one in on.client.failed() if one not in begun]

        run.least("streams that had begun there", len(begun), 1)
        run.least("requests that waited there", len(waited), 1)
        run.within("streams marked", max((o.ended - gone for o in begun), default=None), 9.0)
        run.within("moved", moved_after(on, waited, gone), 9.0)
        run.none("sent there more than 8 s later", late)
        run.none("streams without the marker", [one for one in begun if not one.marked])
        run.none("other requests that failed", others)
        # Whatever it does now, nobody could tell it to end.
        on["r1"].thawed = math.inf
        on["r1"].kill()


@pytest.mark.chaos
async def test_c12_node_flaps(run: Run, tmp_path: Path) -> None:
    run.note = (
        "First its port opens and closes every 3 s, for 18 s, at full length; probes see that. The "
        "nodes are not short of room there: of two that are, a free one is asked first, even if it "
        "has just come back. "
        "Then only its inference fails every 3 s for 300 s, divided, with the traffic multiplied."
    )
    await _port_flaps(run, tmp_path / "port")
    run.divide(full=10, short=20)
    await _inference_flaps(run, tmp_path / "inference")


async def _port_flaps(run: Run, folder: Path) -> None:
    folder.mkdir()
    hosts = {name: host(proxied=name == "r1", token_delay=0.002) for name in ("local", "r1", "r2")}
    async with stage(run, folder, hosts) as on:
        proxy, began = on.proxies["r1"], time.time()
        async with on.client.traffic():
            for _ in range(3 if run.full else 1):
                proxy.fault = Fault(refuse=True, rebooted=True)
                await asyncio.sleep(3)
                proxy.fault = Fault()
                await asyncio.sleep(3)
        _flapped(on, "port", began)


async def _inference_flaps(run: Run, folder: Path) -> None:
    folder.mkdir()
    period, fails = 3 / run.factor, {"route": "/*", "method": "POST", "cut_after": 0, "times": 0}
    async with stage(run, folder, {"r1": host(), "r2": host()}) as on:
        opened, began = _Opened(on, "r1"), time.time()
        async with on.client.traffic(rate=100.0):
            for _ in range(50):
                await on["r1"].tell(fails)
                await opened.watch(period)
                await on["r1"].forget()
                await opened.watch(period)
        run.least("ejections, each twice as long", opened.count, 5)
        run.least("longest ejection", opened.longest * run.factor, 80 * 0.8, "s")
        _flapped(on, "inference", began)


def _flapped(on: Stage, what: str, began: float) -> None:
    """What may come of a node that flaps: hardly any traffic for it, and nobody's harm."""
    asked = [one for one in on.inferred() if one.node == "r1"]
    late = [one for one in on.client.told if one.began > began + 0.1]
    cut = [one for one in on.client.failed() if one.marked]
    failed = [one for one in on.client.failed() if one not in cut]
    on.run.none(f"{what}: failed before the first byte", failed)
    on.run.most(f"{what}: traffic to it", 100 * len(asked) / len(late), 5, "%")
    on.run.seen(f"{what}: streams cut and marked", len(cut))


class _Opened:
    """How often and how long a node was ejected."""

    def __init__(self, on: Stage, node: str) -> None:
        self._on = on
        self._node = node
        self._since: float | None = None
        self.count = 0
        self.longest = 0.0

    async def watch(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (now := loop.time()) < end:
            out = (await self._on.side.nodes())[self._node]["circuit"] == "open"
            if out and self._since is None:
                self._since, self.count = now, self.count + 1
            elif not out:
                self._since = None
            if self._since is not None:
                self.longest = max(self.longest, now - self._since)
            await asyncio.sleep(min(0.02, seconds / 10))


@pytest.mark.chaos
async def test_c13_all_nodes_are_down_and_one_comes_back(run: Run, tmp_path: Path) -> None:
    run.divide(full=2, short=5)
    async with stage(run, tmp_path, {"r1": host(), "r2": host()}) as on:
        async with on.client.traffic():
            await asyncio.sleep(run.seconds / 6)
            for node in on.fakes.values():
                node.kill()
            dead = time.time()
            await asyncio.sleep(20 / run.factor)
            await on.restart("r2")
            back = time.time()
            await asyncio.sleep(run.seconds / 4)
        during = [o for o in on.client.told if dead + 0.3 < o.began and o.ended < back - 0.5]
        refused = [one for one in during if one.reply.status == 503]
        right = [one for one in refused if 1 <= int(one.reply.header("retry-after") or 0) <= 60]
        first = min((o.ended for o in on.client.told if o.good and o.ended > back), default=None)
        again = [one for one in on.client.told if one.began > (first or 0.0) + 0.5]

        run.least("asked while all were down", len(during), 10)
        run.none("answered with anything but 503 and Retry-After", [*_but(during, right)])
        run.within("first success after the return", first and first - back, 3.0)
        run.none("failed after that", [one for one in again if not one.good])


def _but(all_: list[Told], some: list[Told]) -> list[Told]:
    return [one for one in all_ if one not in some]


@pytest.mark.chaos
async def test_c14_storm_of_retries(run: Run, tmp_path: Path) -> None:
    run.note = "First one node fails every attempt, then all of them do, with 502, after 0.3 s."
    async with stage(run, tmp_path, {"r1": host(), "r2": host()}) as on:
        await on["r1"].tell({"route": "/*", "method": "POST", "cut_after": 0, "times": 0})
        await on.client.keep(run.seconds / 3, 200)
        await on.client.done()
        one_bad = len(on.inferred()) / len(on.client.told)
        run.none("failed while one node fails", on.client.failed())

        at, had = len(on.client.told), len(on.inferred())
        for node in on.fakes.values():
            await node.forget()
            fails = {"route": "/*", "method": "POST", "status": 502, "delay": 0.3, "times": 0}
            await node.tell(fails)
        seconds = run.seconds / 3
        await on.client.keep(seconds, 200)
        await on.client.done()
        asked = len(on.client.told) - at
        # Three at a time are always allowed: each takes 0.3 s.
        limit = 1.2 + 3 / 0.3 * seconds / asked
        run.most("attempts a request, one node fails", one_bad, limit)
        run.most("attempts a request, all fail", (len(on.inferred()) - had) / asked, limit)
        run.seen("requests", len(on.client.told))
