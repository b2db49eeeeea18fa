"""What may be spent: counted retries at a time, and bytes of bodies kept for a repeat."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ollama_wrap.observe.pressure import Strain

#: bytes of a body that is kept while memory is short: enough to know its model
_LITTLE = 64 * 1024
#: calls that wait for their turn to be tried again
_WAITING = 512


@dataclass(frozen=True, slots=True)
class Allowance:
    """`attempts` counted a call; retries at a time: `least`, or `share` of the calls running.

    `body` and `bodies`: bytes of one kept body, and of all. `backoff` and
    `backoff_most`: seconds, the first at most and any at most.
    """

    attempts: int = 3
    share: float = 0.2
    least: int = 3
    body: int = 32 * 1024 * 1024
    bodies: int = 256 * 1024 * 1024
    backoff: float = 0.05
    backoff_most: float = 1.0


class Budget:
    """Counts what is spent now: calls `running`, counted `retrying`, bytes `kept`.

    Calls that wait to be tried again are running. `strain`: what is to be spared.
    """

    def __init__(
        self,
        allowance: Allowance,
        dice: Callable[[float, float], float] = random.uniform,
        strain: Strain | None = None,
    ) -> None:
        self.allowance = allowance
        self.strain = strain or Strain()
        self._dice = dice
        self.running = 0
        self.retrying = 0
        self.kept = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def may_retry(self, counted: int) -> bool:
        """Whether a call that made `counted` counted attempts may make one more now."""
        return counted < self.allowance.attempts and self._room() and not self._waiting

    def _room(self) -> bool:
        allowance = self.allowance
        return self.retrying + 1 <= max(allowance.least, allowance.share * self.running)

    async def turn(self, counted: int, seconds: float) -> bool:
        """Count a call as retrying, in its turn; True: it may be tried, and is to be given back.

        Calls that fail together must not all be sent again together, and need not be
        refused: the first come first, and nobody waits longer than `seconds`.
        """
        if counted >= self.allowance.attempts or len(self._waiting) >= _WAITING:
            return False
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._wake()
        # Without any that would end, nobody would wake who waits.
        if place.done() or not self.retrying:
            self._forget(place)
            return place.done()
        try:
            await asyncio.wait((place,), timeout=max(0.0, seconds))
        except asyncio.CancelledError:
            if place.done():
                self.give_back()
            raise
        finally:
            self._forget(place)
        return place.done()

    def give_back(self) -> None:
        """A call is no longer retrying."""
        self.retrying -= 1
        self._wake()

    def _forget(self, place: "asyncio.Future[None]") -> None:
        if not place.done():
            self._waiting.remove(place)

    def _wake(self) -> None:
        while self._waiting and self._room():
            self.retrying += 1
            self._waiting.popleft().set_result(None)

    def backoff(self, counted: int) -> float:
        """Seconds to wait after `counted` counted attempts, at least one: full jitter."""
        allowance = self.allowance
        most = min(allowance.backoff_most, allowance.backoff * 2.0 ** (counted - 1))
        return self._dice(0.0, most)

    def body_limit(self) -> int:
        """Bytes of a body that may be kept for one more call."""
        allowance = self.allowance
        most = _LITTLE if self.strain.refuse else allowance.body
        left = allowance.bodies - self.kept
        return most if most <= left else max(0, left)

    def keeps(self, size: int) -> bool:
        """Whether a body that is counted already, with `size` bytes, may still be kept."""
        most = _LITTLE if self.strain.refuse else self.allowance.body
        return size <= most and not self.full

    @property
    def full(self) -> bool:
        """Whether kept bodies take more than they may."""
        return self.kept > self.allowance.bodies
