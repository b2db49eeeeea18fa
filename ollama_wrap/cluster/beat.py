"""Beat: the rhythm of a loop, which anybody can hasten.

Owns one pause. Must not know what the loop does.
"""

import asyncio

from ollama_wrap import tasks
from ollama_wrap.clock import Clock


class Beat:
    """A pause that ends when its time has passed or when it is rung.

    A ring while the loop works is kept for its next pause; many are one. No
    pause is shorter than `least` seconds, however often it is rung.
    """

    def __init__(self, clock: Clock, least: float) -> None:
        self._clock = clock
        self._least = least
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def rest(self, seconds: float) -> None:
        """Come back after `seconds`, or when rung."""
        # Rung or not: a loop that is rung by what it causes itself must not spin.
        await self._clock.sleep(self._least)
        alarm = tasks.start(self._alarm(seconds - self._least), "alarm of a beat")
        try:
            await self._rung.wait()
        finally:
            alarm.cancel()
        self._rung.clear()

    async def _alarm(self, seconds: float) -> None:
        if seconds > 0:
            await self._clock.sleep(seconds)
        self._rung.set()
