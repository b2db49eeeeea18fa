"""How calls were answered: by callbacks alone, or by a task; and a cluster where they need none.

A call needs no task once its model's first choice is known and a connection to it is idle: `warmed`
has it so, forgets what that took, and counts from there.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from typing import Any

from ollama_wrap.call import Mode
from tests.fakes.cluster import Cluster, Host, cluster
from tests.fakes.raw_http import request_bytes
from tests.flow.rows import BIG, PAIR, STREAMS

#: it was a task from its beginning; it became one when something was not as usual
TASK, HANDED_ON = "a task", "handed on"
#: a field that makes a call a task, and nothing else
EXPECTS = ("Expect", "100-continue")


class Ways:
    """The tasks that answered calls, in the order of their beginning."""

    def __init__(self, one: Cluster) -> None:
        self._one = one
        self._made: list[tuple[asyncio.Task[Any], str]] = []

    def make(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        """A task factory; the name of a task is only known later."""
        begun = any(one.call.begun is not None for one in self._one.runtime.pipeline.running.all())
        task = asyncio.Task(work, loop=loop, **more)
        self._made.append((task, HANDED_ON if begun else TASK))
        return task

    @property
    def calls(self) -> list[str]:
        return [word for task, word in self._made if task.get_name() == "call"]


@contextlib.contextmanager
def watched(one: Cluster) -> Iterator[Ways]:
    """Watch how calls are answered from now on."""
    loop = asyncio.get_running_loop()
    ways = Ways(one)
    loop.set_task_factory(ways.make)  # type: ignore[arg-type]
    try:
        yield ways
    finally:
        loop.set_task_factory(None)


def request(path: str = "/api/chat", *fields: tuple[str, str], **more: Any) -> bytes:
    """A streamed request for `big`, unless `more` says otherwise."""
    body = json.dumps({"model": "big", **STREAMS[path], **more}).encode()
    return request_bytes("POST", path, body, [("X-Request-ID", "I"), *fields])


@contextlib.asynccontextmanager
async def warmed(
    hosts: Mapping[str, Host] = PAIR, path: str = "/api/chat", **settings: Any
) -> AsyncIterator[tuple[Cluster, Ways]]:
    """A cluster that has answered one request to `path` already; nothing is counted of it."""
    async with cluster(hosts, **settings) as one:
        await warm(one, path)
        for fake in one.fakes.values():
            fake.ledger.reset()
        one.written.seek(0)
        one.written.truncate()
        with watched(one) as ways:
            yield one, ways


async def warm(one: Cluster, path: str = "/api/chat") -> None:
    """Have a call answered, and another when all know that its model is in memory now."""
    fleet = one.runtime.fleets.current
    for _ in range(2):
        lines = len(one.lines())
        async with one.open(request(path)) as talk:
            assert (await talk.reply()).status == 200
        await one.ended(lines + 1)
        await one.settled()
        if fleet.mode is Mode.DISTRIBUTED:
            await one.until(lambda: any(node.inventory.has_loaded(BIG) for node in fleet.others))
