"""Circuit: whether calls may go to a node that failed lately; Cooldown: for a model there.

A circuit is closed while calls succeed. Failures in a row, or too large a share
of them, open it; after a while one call at a time may try, and two successes close
it. Each time it opens again it stays open twice as long, and a time of quiet takes
one doubling back. Whether the last node may be left out is not decided here.
"""

from collections.abc import Callable, Collection
from enum import StrEnum
from functools import cache
from random import Random

from msgspec import Struct, field
from msgspec.structs import replace

from ollama_wrap.config.groups import Circuit as Rules

#: jitter of all open times; tests give their own
DICE = Random()

#: open times vary by this share, so that many sidecars do not come back together
_JITTER = 0.2
#: the window of recent attempts is kept in so many pieces
_PIECES = 6

#: sets of options of one model that are remembered: clients may make up any number
_SORTS = 16

#: says with which options a call has its model loaded; asked only where it matters
Options = Callable[[], str]
#: pieces of the window: number, good attempts, bad ones
Window = tuple[tuple[int, int, int], ...]


@cache
def _rules() -> Rules:
    return Rules()


class CircuitState(StrEnum):
    """Calls pass; none pass; one at a time may try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Circuit(Struct, frozen=True):
    """A node's breaker; each transition returns the next Circuit.

    `retry_at`: None where it is closed, else when a call may try again.
    `opened`: when it last opened. `trips`: how often it opened lately.
    """

    retry_at: float | None = None
    opened: float = 0.0
    fails: int = 0
    oks: int = 0
    trips: int = 0
    closed: float = 0.0
    trying: bool = False
    window: Window = ()
    rules: Rules = field(default_factory=_rules)

    def state(self, now: float) -> CircuitState:
        if self.retry_at is None:
            return CircuitState.CLOSED
        return CircuitState.OPEN if now < self.retry_at else CircuitState.HALF_OPEN

    def allows(self, now: float) -> bool:
        """Whether a call may go there now."""
        return self.retry_at is None or (now >= self.retry_at and not self.trying)

    def tried(self) -> "Circuit":
        """A call goes there; where it is a trial, it is the only one."""
        if self.retry_at is None or self.trying:
            return self
        return replace(self, trying=True)

    def released(self) -> "Circuit":
        """A call ended and said nothing of the node."""
        return replace(self, trying=False) if self.trying else self

    def succeeded(self, now: float, times: int = 1) -> "Circuit":
        """A well-formed answer came; `times` of them while it was closed."""
        if self.retry_at is None:
            return Circuit(
                trips=self.trips,
                closed=self.closed,
                window=self._counted(now, times, 0),
                rules=self.rules,
            )
        # A call from before it opened, such as a long stream, is no trial.
        if now < self.retry_at and not self.trying:
            return self
        if self.oks + 1 < self.rules.successes:
            return replace(self, oks=self.oks + 1, fails=0, trying=False)
        return Circuit(trips=self.trips, closed=now, rules=self.rules)

    def failed(self, now: float, dice: Random = DICE) -> "Circuit":
        """The transport failed."""
        if self.retry_at is not None:
            if now < self.retry_at:
                return replace(self, oks=0, trying=False)
            return _opened(self.rules, now, self.trips, dice)
        window = self._counted(now, 0, 1)
        if self.fails + 1 < self.rules.failures and not _too_many(window, self.rules):
            return replace(self, fails=self.fails + 1, window=window)
        quiet = int((now - self.closed) / self.rules.decay) if self.rules.decay else 0
        return _opened(self.rules, now, max(0, self.trips - quiet), dice)

    def _counted(self, now: float, oks: int, bads: int) -> Window:
        piece = int(now * _PIECES / (self.rules.window or 1.0))
        window = self.window
        if window and window[-1][0] == piece:
            last = window[-1]
            return (*window[:-1], (piece, last[1] + oks, last[2] + bads))
        kept = tuple(one for one in window if one[0] > piece - _PIECES)
        return (*kept, (piece, oks, bads))


class Cooldown(Struct, frozen=True):
    """The breaker of one model on one node; `until`: no call for it goes there before."""

    until: float = 0.0
    fails: int = 0
    trips: int = 0
    rules: Rules = field(default_factory=_rules)

    def cooling(self, now: float) -> bool:
        return now < self.until

    def failed(self, now: float, weight: int = 1, dice: Random = DICE) -> "Cooldown":
        """The model failed there; out of memory while it loads, and a stalled load, weigh 2.

        Failures count in a row: only a success, which is a new Cooldown, ends the row.
        """
        fails = self.fails + weight
        if now < self.until or fails < self.rules.model_failures:
            return replace(self, fails=fails)
        span = _span(self.rules.cooldown, self.rules.cooldown_max, self.trips, dice)
        return replace(self, until=now + span, fails=fails, trips=self.trips + 1)


class Cooldowns:
    """The Cooldowns of a node's models: by key, and by the options that they were loaded with.

    A model that does not fit with a long context may well fit with a short one.
    """

    def __init__(self, rules: Rules | None = None) -> None:
        self._first = Cooldown() if rules is None else Cooldown(rules=rules)
        self.by_key: dict[str | None, dict[str, Cooldown]] = {}

    def obey(self, rules: Rules) -> None:
        """Go by other rules from now on; what cools goes on."""
        self._first = replace(self._first, rules=rules)
        for known in self.by_key.values():
            for options, one in known.items():
                known[options] = replace(one, rules=rules)

    def cooling(self, key: str | None, now: float, options: Options | None = None) -> bool:
        """Whether no call for it goes there now; without `options`: with any at all."""
        known = self.by_key.get(key)
        if not known or not any(one.cooling(now) for one in known.values()):
            return False
        if options is None:
            return True
        found = known.get(options())
        return found is not None and found.cooling(now)

    def failed(self, key: str | None, options: str, now: float, weight: int, dice: Random) -> None:
        """The model failed there."""
        known = self.by_key.setdefault(key, {})
        if options not in known and len(known) >= _SORTS:
            del known[next(iter(known))]
        known[options] = known.get(options, self._first).failed(now, weight, dice)

    def succeeded(self, key: str | None, options: Options) -> None:
        """It answered."""
        known = self.by_key.get(key)
        if known is not None:
            known.pop(options(), None)
            if not known:
                del self.by_key[key]

    def forgive(self, gone: Collection[str]) -> bool:
        """Let all but these try again; False: nothing was cooling."""
        forgiven = [key for key in self.by_key if set(gone) - {key}]
        for key in forgiven:
            del self.by_key[key]
        return bool(forgiven)


def _opened(rules: Rules, now: float, times: int, dice: Random) -> Circuit:
    span = _span(rules.open, rules.open_max, times, dice)
    return Circuit(retry_at=now + span, opened=now, trips=min(times + 1, 32), rules=rules)


def _too_many(window: Window, rules: Rules) -> bool:
    bads = sum(one[2] for one in window)
    total = bads + sum(one[1] for one in window)
    return total >= rules.attempts and bads >= rules.share * total


def _span(first: float, most: float, times: int, dice: Random) -> float:
    """`first` seconds doubled `times` times, jittered, at most `most`."""
    span = min(most, first * 2.0 ** min(times, 32))
    return min(most, span * dice.uniform(1.0 - _JITTER, 1.0 + _JITTER))
