"""A Clock that stands still until a test moves it.

`advance` moves it at once and wakes who has slept long enough; `run` goes from
sleeper to sleeper, so that a loop which sleeps two seconds runs five times in
ten; `jump` moves wall time alone, as a suspend or a step of NTP does.
"""

import asyncio
import time

#: turns of the loop that the longest chain of callbacks between two sleeps may need
TURNS = 50


class FakeClock:
    def __init__(self, wall: float = 1_700_000_000.0, start: float = 1000.0) -> None:
        self._wall = wall
        self._time = start
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._time

    def local_time(self, wall: float) -> str:
        return time.strftime("%H:%M", time.gmtime(wall))

    async def sleep(self, seconds: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._time + seconds, wake))
        await wake

    @property
    def sleeping(self) -> int:
        """How many wait for this clock."""
        return sum(not wake.done() for _, wake in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass; who has slept long enough wakes when the loop runs next."""
        self._wall += seconds
        self._time += seconds
        for end, wake in self._sleepers:
            if end <= self._time and not wake.done():
                wake.set_result(None)
        self._sleepers = [(end, wake) for end, wake in self._sleepers if not wake.done()]

    async def run(self, seconds: float) -> None:
        """Let time pass, each sleeper waking when it is due, and what it starts running."""
        await settle()
        end = self._time + seconds
        while due := [when for when, wake in self._sleepers if when <= end and not wake.done()]:
            self.advance(max(0.0, min(due) - self._time))
            await settle()
        self.advance(end - self._time)
        await settle()

    def jump(self, seconds: float) -> None:
        """Move wall time alone."""
        self._wall += seconds


async def settle() -> None:
    """Let everything run that waits for neither time nor a socket."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
