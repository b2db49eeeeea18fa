"""Background tasks: named, kept alive, their ends never unnoticed.

asyncio keeps only weak references to tasks and reports an exception when it
happens to collect one; this module is the only one that starts tasks.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)
_running: set[asyncio.Task[Any]] = set()


def start(
    work: Coroutine[Any, Any, Any], name: str, loop: asyncio.AbstractEventLoop | None = None
) -> asyncio.Task[Any]:
    """Run `work` in the background under `name`; an exception that ends it is logged.

    Whoever has the loop at hand gives it: asking for it costs a system call
    before Python 3.12.
    """
    task = (loop or asyncio.get_running_loop()).create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def running() -> frozenset[asyncio.Task[Any]]:
    """The tasks that have not ended, for leak checks and for shutdown."""
    return frozenset(_running)


async def stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancel `tasks` and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background task %s failed", task.get_name(), exc_info=error)
