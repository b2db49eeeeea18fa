"""Nodes that die, freeze, come back, and all at once: C1, C2, C4, C12, C13."""

import asyncio
import time
from pathlib import Path

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


async def test_c1_node_is_killed_before_the_first_byte(run: Run, tmp_path: Path) -> None:
    hosts = {"r1": host(), "r2": host()}
    async with stage(run, tmp_path, hosts) as on:
        loop = asyncio.get_running_loop()
        async with on.client.traffic():
            await asyncio.sleep(run.seconds / 4)
            await on["r1"].tell(WAITS, WAITS_V1)
            await asyncio.sleep(0.7)
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
    run.divide(full=5, short=5)
    frozen_for = 30 / run.factor if run.full else 3.5
    hosts = {"r1": host("tiny,solo"), "r2": host()}
    # What is not timed need not be waited for.
    hurry = {} if run.full else {"OLLAMA_WRAP_HEALTH_WARMING": "1s"}
    async with stage(run, tmp_path, hosts, hurry) as on:
        loop = asyncio.get_running_loop()
        async with on.client.traffic():
            await asyncio.sleep(2 if run.full else 1)
            slow = {"route": "/api/*", "method": "POST", "token_delay": 0.2, "times": 6}
            await on["r1"].tell(slow, {**slow, "prompt_delay": 0.5, "times": 0})
            await asyncio.sleep(0.6)
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
        longest = max((one.ended - frozen for one in moved if not one.form.stream), default=None)
        streams = [one.first - frozen for one in moved if one.form.stream and one.first]

        run.least("waiting requests moved", len(moved), 1)
        run.within("moved", max([longest or 0.0, *streams]), 9.0)
        run.none("streams that had begun and did not go on", [o for o in begun if not o.good])
        run.must("requests that no other node can take wait", all(t.result().good for t in alone))
        run.none("failed", on.client.failed())
        run.within("full weight again", back, 40.0)
        run.seen("streams that had begun there", len(begun))
