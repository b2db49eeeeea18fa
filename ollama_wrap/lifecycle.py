"""Starts and stops the loops of a runtime. Must not know what the loops do."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from ollama_wrap import tasks
from ollama_wrap.observe import log


@dataclass(slots=True)
class Loops:
    """What a runtime runs, in the order in which it starts.

    `before`: awaited one after the other; `run`: named endless work; `after`:
    awaited in turn when all work has been stopped. `busy` comes back when no
    call is open.
    """

    before: list[Callable[[], Awaitable[None]]]
    run: dict[str, Callable[[], Coroutine[Any, Any, None]]]
    after: list[Callable[[], Awaitable[None]]]
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    async def start(self) -> None:
        """Start everything."""
        for step in self.before:
            await step()
        self._tasks = [tasks.start(work(), name) for name, work in self.run.items()]

    async def stop(self) -> None:
        """Stop everything; a step that fails does not keep the others from stopping."""
        await tasks.stop(*self._tasks)
        for step in self.after:
            try:
                await step()
            except Exception:  # noqa: BLE001  the others must stop too
                log.get(__name__).exception("a part did not stop cleanly")
        log.flush()
