"""What may be spent: counted retries at a time, and bytes of bodies kept for a repeat."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from ollama_wrap.observe.pressure import Strain

#: bytes of a body that is kept while memory is short: enough to know its model
_LITTLE = 64 * 1024


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

    `strain`: what is to be spared.
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

    def may_retry(self, counted: int) -> bool:
        """Whether a call that made `counted` counted attempts may make one more now."""
        allowance = self.allowance
        return counted < allowance.attempts and self.retrying + 1 <= max(
            allowance.least, allowance.share * self.running
        )

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
