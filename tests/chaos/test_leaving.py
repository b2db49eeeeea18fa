"""Clients that leave at any moment: C15."""

import asyncio
import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.figures import Run
from tests.chaos.stage import Stage, host, stage
from tests.chaos.traffic import STREAMS, WHOLES, Told, percentile

#: models that are loaded in turn, one at a time, so that most requests for them find a load
COLD = tuple(f"c{number}" for number in range(8))
SETTINGS = {
    "OLLAMA_WRAP_ROUTING": "remote-first",
    # The node that nobody can connect to is to stay a candidate.
    "OLLAMA_WRAP_HEALTH_FALL": "1000",
    "OLLAMA_WRAP_CIRCUIT_FAILURES": "100000",
    "OLLAMA_WRAP_CIRCUIT_SHARE": "1",
}


@contextlib.contextmanager
def tarpit(port: int) -> Iterator[None]:
    """A port whose queue is full: whoever connects hears nothing."""
    with contextlib.ExitStack() as open_:
        sock = open_.enter_context(contextlib.closing(socket.socket()))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(0)
        for _ in range(4):
            filler = open_.enter_context(contextlib.closing(socket.socket()))
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield


async def test_c15_clients_leave_while_they_wait_and_while_they_read(
    run: Run, tmp_path: Path
) -> None:
    count, rate = (1250, 90.0) if run.full else (200, 50.0)
    hosts = {
        "local": host("other"),
        "q1": host("queued", "slots=2"),
        "q2": host("queued", "slots=2"),
        "cold": host(",".join(COLD), load_delay=0.1, max_loaded=1),
        "flow": host("flowing", token_delay=0.03),
        "far": host("far"),
    }
    async with stage(run, tmp_path, hosts, SETTINGS) as on:
        on["far"].kill()
        with tarpit(on["far"].port):
            await _leave(on, count, rate)
            await on.client.done()
        left = [one for one in on.client.told if one.error == "left"]
        late = _latencies(on, left)
        await on.settled()

        run.least("clients that left", len(left), count / 2)
        run.least("of these, calls that had reached a node", len(late), count / 10)
        run.timed("until the node heard of it, p99", percentile(late, 0.99) * 1000, 250, "ms")
        run.none("others that failed", on.client.failed())
        await _afterwards(on)


async def _leave(on: Stage, count: int, rate: float) -> None:
    """Requests for each model in turn, whose clients leave after a random while."""
    dice = random.Random(on.run.repetition)
    loop = asyncio.get_running_loop()
    began = loop.time()
    models = ("queued", COLD[0], "flowing", "far")
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        model = models[number % 4]
        if model == COLD[0]:
            model = dice.choice(COLD)
        form = dice.choice((*STREAMS, *WHOLES))
        task = on.client.start(form, model, rough=bool(number & 4))
        loop.call_later(dice.uniform(0.0, 0.4), task.cancel)


def _latencies(on: Stage, left: list[Told]) -> list[float]:
    """Seconds from a client's leaving until its node knew; those that had ended are left out."""
    gone = {one.mark: one.ended for one in left}
    return [
        max(0.0, one.ended - gone[one.mark])
        for one in on.inferred()
        if one.mark in gone and one.ended is not None and one.end == "cancelled"
    ]


async def _afterwards(on: Stage) -> None:
    """Nothing is held for anybody, and everything works."""
    run = on.run
    nodes = await on.side.nodes()
    run.most("calls still counted at nodes", sum(one["in_flight"] for one in nodes.values()), 0)
    run.most("calls still running", await on.side.metrics("num_requests_running"), 0)
    run.most("calls still waiting", await on.side.metrics("num_requests_waiting"), 0)
    at = len(on.client.told)
    for number in range(100):
        on.client.start(WHOLES[number % 3], ("queued", "flowing")[number % 2])
    await on.client.done()
    run.least(
        "plain requests that are served afterwards", sum(o.good for o in on.client.told[at:]), 100
    )
