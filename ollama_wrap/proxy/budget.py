"""What may be spent: counted retries at a time, and bytes of bodies kept for a repeat."""

import random
from collections.abc import Callable
from dataclasses import dataclass


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
    """Counts what is spent now: calls `running`, counted `retrying`, bytes `kept`."""

    def __init__(
        self, allowance: Allowance, dice: Callable[[float, float], float] = random.uniform
    ) -> None:
        self.allowance = allowance
        self._dice = dice
        self.running = 0
        self.retrying = 0
        self.kept = 0

    def may_retry(self, counted: int) -> bool:
        """Whether a call that made `counted` counted attempts may make one more now."""
        allowance = self.allowance
        return counted < allowance.attempts and self.retrying < max(
            allowance.least, allowance.share * self.running
        )

    def backoff(self, counted: int) -> float:
        """Seconds to wait after `counted` counted attempts, at least one: full jitter."""
        allowance = self.allowance
        most = min(allowance.backoff_most, allowance.backoff * 2.0 ** (counted - 1))
        return self._dice(0.0, most)

    def body_limit(self) -> int:
        """Bytes of a body that may be kept for one more call."""
        return max(0, min(self.allowance.body, self.allowance.bodies - self.kept))
