"""Time as a value that can be given: the only module that reads the system's clocks.

Durations and deadlines are seconds on the monotonic clock; `now` is wall time
(Unix seconds) and only for people to read.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What the program knows about time."""

    def now(self) -> float:
        """Wall time in Unix seconds."""

    def monotonic(self) -> float:
        """Seconds that never run backwards."""

    def local_time(self, wall: float) -> str:
        """`HH:MM` of a wall time, in this machine's zone, for people to read."""

    async def sleep(self, seconds: float) -> None:
        """Come back after `seconds`."""


class SystemClock:
    """The machine's own clocks."""

    # Plain attributes, not wrappers: both are read several times a request.
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)

    def local_time(self, wall: float) -> str:
        """See `Clock.local_time`."""
        return time.strftime("%H:%M", time.localtime(wall))
