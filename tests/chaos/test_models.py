"""Loads, failures of the engine, and the chain of fallbacks: C9, C10, C34."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ollama_wrap.testing import FAILURES
from tests.chaos.figures import Run
from tests.chaos.stage import Stage, host, stage
from tests.chaos.traffic import STREAMS, WHOLES, Told

#: r1 before r2 before our own
REMOTE = {"OLLAMA_WRAP_ROUTING": "remote-first"}
#: a probe is not late because everything else is quicker
UNHURRIED = {**REMOTE, "OLLAMA_WRAP_HEALTH_TIMEOUT": "1500ms"}


async def test_c9_model_takes_two_minutes_to_load(run: Run, tmp_path: Path) -> None:
    run.divide(full=10, short=30)
    load = 120 / run.factor
    hosts = {
        "r1": host("tiny,big", "priority=0"),
        "r2": host("tiny,big", "priority=1"),
    }
    async with stage(run, tmp_path, hosts, UNHURRIED) as on:
        async with on.client.traffic(), _states(on, "r1") as states:
            await asyncio.sleep(1)
            await on["r1"].tell({"route": "/api/*", "model": "big", "load_delay": load})
            first = on.client.start(STREAMS[0], "big")
            await asyncio.sleep(0.5)
            second = on.client.start(WHOLES[0], "big")
            cold = await first
            behind = await second
            await asyncio.sleep(0.5)
        asked = [one for one in on.inferred() if one.model.startswith("big")]

        run.must("the cold request is served by the node that loads", cold.good)
        run.must("it was asked there alone", cold.node == "r1" and not cold.attempts)
        run.must("what came behind it is served", behind.good)
        run.least("seconds of silence", cold.took, load, "s")
        run.most("requests for the model at nodes", len(asked), 2)
        run.most("retries", await on.side.metrics("retries_total"), 0)
        run.none("states of the loading node but up", states - {"up"})
        run.none("failed", on.client.failed())


class _states:  # noqa: N801  used as a block
    """The states that a node was seen in while the block ran."""

    def __init__(self, on: Stage, node: str) -> None:
        self._on = on
        self._node = node
        self._seen: set[str] = set()

    async def __aenter__(self) -> set[str]:
        self._task = asyncio.get_running_loop().create_task(self._look())
        return self._seen

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            node = (await self._on.side.nodes())[self._node]
            self._seen.add(node["status"] if node["circuit"] == "closed" else "ejected")
            await asyncio.sleep(0.05)


#: the reason word of the first attempt for each failure; "": it is the answer of a stream
WORDS_OF = {
    "engine-dies-first": "load-failure",
    "runner-stopped": "load-failure",
    "out-of-memory": "oom",
    "bad-magic": "load-failure",
    "load-timeout": "load-failure",
    "no-engine": "load-failure",
    "prompt-too-long": "",
    "engine-dies": "",
}


async def test_c10_engine_fails_on_one_node_and_not_on_another(run: Run, tmp_path: Path) -> None:
    run.divide(full=10, short=40)
    names = ",".join(f"m{number}" for number in range(2 * len(WORDS_OF)))
    models = f"tiny,{names},cool"
    hosts = {
        "local": host("other"),
        "r1": host(models, "priority=0", max_loaded=30),
        "r2": host(models, "priority=1", max_loaded=30),
    }
    assert WORDS_OF.keys() == FAILURES.keys() - {"busy"}
    async with stage(run, tmp_path, hosts, UNHURRIED) as on, _states(on, "r1") as states:
        wrong: list[str] = []
        forms, retries = (STREAMS[0], WHOLES[0])[: 2 if run.full else 1], 0
        # Each with a model of its own: one that failed is not asked for there again so soon.
        for number, (form, failure) in enumerate(itertools.product(forms, WORDS_OF)):
            word = WORDS_OF[failure]
            if failure == "engine-dies" and not form.stream:
                word = "load-failure"  # nothing of a whole answer was sent
            retries += bool(word)
            await on["r1"].tell({"model": f"m{number}", "failure": failure})
            wrong += _judged(await on.client.ask(form, f"m{number}"), failure, word)
        run.none("failures with another end than theirs", wrong)
        run.most("retries of each", await on.side.metrics("retries_total") / retries, 1)

        cooled, others = await _cooldown(on, 60 / run.factor)
        run.least("model rests", cooled * run.factor, 60 * 0.8, "s")
        # It is asked again with the next request, 50 ms later at most, and a while to see it.
        run.timed("model rests at most", cooled * run.factor, 60 * 1.2 + 0.3 * run.factor, "s")
        run.none("other models not served there meanwhile", [o for o in others if o.node != "r1"])

        await on["r1"].tell({"model": "tiny", "failure": "busy"})
        wrong = _judged(await on.client.ask(STREAMS[0], "tiny"), "busy", "busy")
        run.none("busy", wrong)
        run.none("states of the failing node but up", states - {"up"})


def _judged(told: Told, failure: str, word: str) -> list[str]:
    if word:
        right = (told.good, told.node, told.attempts[:1]) == (True, "r2", (f"r1:{word}",))
    else:
        text = FAILURES[failure].text[:30].encode()
        right = told.node == "r1" and not told.attempts and text in told.reply.body
        right = right or (failure == "prompt-too-long" and told.reply.status == 400)
    return [] if right else [f"{failure}: {told}"]


async def _cooldown(on: Stage, span: float) -> tuple[float, list[Told]]:
    """How long a model that ran out of memory is not asked for there; what else was asked."""
    await on["r1"].tell({"model": "cool", "failure": "out-of-memory"})
    began = time.time()
    others: list[Told] = []
    while time.time() < began + 2 * span + 1:
        told = await on.client.ask(WHOLES[0], "cool")
        if told.node == "r1":
            return told.began - began, others
        others.append(await on.client.ask(WHOLES[0], "tiny"))
    return 0.0, others


@pytest.mark.chaos
async def test_c34_each_step_of_the_chain(run: Run, tmp_path: Path) -> None:
    run.divide(full=5, short=5)
    hosts = {"r1": host(entry="priority=0"), "r2": host(entry="priority=1")}
    async with stage(run, tmp_path, hosts, REMOTE) as on:
        steps: tuple[Callable[[Stage], Awaitable[list[str]]], ...] = (
            _other_node,
            _local,
            _standalone,
            _cached,
            _nothing,
        )
        for step in steps:
            run.none(step.__name__.strip("_").replace("_", " "), await step(on))
        run.most("cache hits", await on.side.metrics("cache_hits_total"), 2)
        run.least("fallbacks", await on.side.metrics("fallbacks_total"), 3)


async def _other_node(on: Stage) -> list[str]:
    await on["r1"].tell({"route": "/api/chat", "cut_after": 0})
    told = await on.client.ask(WHOLES[0])
    return _told(told, "r2", ("r1:reset", "r2:served"), "reset")


async def _local(on: Stage) -> list[str]:
    await on.side.until("r1", "up")
    for node in ("r1", "r2"):
        await on[node].tell({"route": "/api/chat", "status": 502})
    told = await on.client.ask(WHOLES[0])
    attempts = ("r1:bad-response", "r2:bad-response", "tower:served")
    return _told(told, "tower", attempts, "bad-response")


async def _standalone(on: Stage) -> list[str]:
    for node in ("r1", "r2"):
        on[node].kill()
    for node in ("r1", "r2"):
        await on.side.until(node, "down")
    told = await on.client.ask(WHOLES[0])
    reason = told.reply.header("x-ollama-standalone-reason")
    mode = told.reply.header("x-ollama-mode")
    right = told.good and (told.node, mode, reason) == ("tower", "standalone", "no-node-answers")
    return [] if right else [f"{told} {told.reply.headers}"]


async def _cached(on: Stage) -> list[str]:
    """Every node is gone: an answer from before, marked, with its age; streamed too."""
    on["local"].kill()
    await on.side.until("tower", "down")
    found = []
    earlier = next(one for one in reversed(on.client.told) if one.good)
    for form in (WHOLES[0], STREAMS[0]):
        told = await on.client.ask(form, mark=earlier.mark)
        header = told.reply.header
        marked = header("x-ollama-cached-response") == "true" and header("age") is not None
        if not (told.good and marked):
            found.append(f"{told} {told.reply.headers}")
    return found


async def _nothing(on: Stage) -> list[str]:
    """Nothing is left: 503, and when to come back."""
    told = await on.client.ask(WHOLES[0])
    after = int(told.reply.header("retry-after") or 0)
    right = told.reply.status == 503 and 1 <= after <= 60
    return [] if right else [f"{told} {told.reply.headers}"]


def _told(told: Told, node: str, attempts: tuple[str, ...], reason: str) -> list[str]:
    header = told.reply.header
    marked = (header("x-ollama-fallback"), header("x-ollama-fallback-reason")) == ("true", reason)
    right = told.good and told.node == node and told.attempts == attempts and marked
    return [] if right else [f"{told} {told.reply.headers}"]
