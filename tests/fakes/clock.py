"""A clock that tests move."""

import asyncio


class FakeClock:
    def __init__(self, wall: float = 1_700_000_000.0, start: float = 1000.0) -> None:
        self._wall = wall
        self._time = start
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._time

    async def sleep(self, seconds: float) -> None:
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._time + seconds, wake))
        await wake

    def advance(self, seconds: float) -> None:
        """Let time pass; who has slept long enough wakes when the loop runs next."""
        self._wall += seconds
        self._time += seconds
        for end, wake in self._sleepers:
            if end <= self._time and not wake.done():
                wake.set_result(None)
        self._sleepers = [(end, wake) for end, wake in self._sleepers if not wake.done()]
