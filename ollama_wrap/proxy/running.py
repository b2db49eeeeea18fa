"""The open Calls: list them, end one, wait for the last."""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from ollama_wrap.call import Call
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.reply import Reply


class Open(Struct, eq=False):
    """A Call that is not closed, and what is known of it so far."""

    count: int
    call: Call
    #: ends the task that answers it
    cancel: Callable[[], object] | None
    tap: Tap
    started_wall: float = 0.0
    reply: Reply | None = None
    status: int = 0
    error: str | None = None
    attempts: tuple[tuple[str, str], ...] = ()
    ended_by_operator: bool = False
    #: called when a node has changed, while its answer has not begun
    look: Callable[[], None] | None = None

    @property
    def number(self) -> str:
        """What it is called by."""
        return str(self.count)


class Running:
    """Open Calls by number."""

    def __init__(self) -> None:
        self._open: dict[int, Open] = {}
        self._count = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, call: Call, cancel: Callable[[], object] | None, tap: Tap, wall: float) -> Open:
        """A Call begins."""
        self._count += 1
        one = self._open[self._count] = Open(self._count, call, cancel, tap, wall)
        if len(self._open) == 1:
            self._empty.clear()
        return one

    def remove(self, one: Open) -> None:
        """A Call has ended."""
        self._open.pop(one.count, None)
        if not self._open:
            self._empty.set()

    def all(self) -> tuple[Open, ...]:
        """The open Calls, oldest first."""
        return tuple(self._open.values())

    def look(self) -> None:
        """A node has changed: those whose answer has not begun may go elsewhere."""
        for one in self.all():
            if one.look is not None:
                one.look()

    def end(self, number: str) -> bool:
        """End one; False if there is none of that number."""
        one = self._open.get(int(number)) if number.isdecimal() else None
        if one is None or one.cancel is None:
            return False
        one.ended_by_operator = True
        one.cancel()
        return True

    async def emptied(self) -> None:
        """Come back when no Call is open."""
        await self._empty.wait()
