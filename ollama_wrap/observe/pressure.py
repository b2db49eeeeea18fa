"""Pressure: how much of its memory and files this process uses, and how late its loop is.

Owns the measuring, and Strain: the flags that the parts of the program obey. It must
not know what follows from which number (`proxy/overload.py`), nor who obeys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ollama_wrap.observe import host

#: seconds between two readings
EVERY = 0.25
#: seconds between two requests that free memory be given back
_RETURN = 10.0


class Measure(StrEnum):
    """What is done about pressure."""

    #: no answer is kept, and the buffers of streams are narrow
    SPARE = "spare-memory"
    #: new inference is refused
    REFUSE = "refuse-inference"
    #: idle connections are closed
    HANG_UP = "close-idle"
    #: new inference of low priority is refused
    SHED = "shed-low"
    #: connections end after their answer
    BRIEF = "no-keep-alive"


@dataclass(frozen=True, slots=True)
class Pressure:
    """One reading, `at` monotonic seconds.

    `lag`: seconds by which the loop came late. `memory` and `files`: used shares of
    what we may have, None where the system does not tell.
    """

    at: float
    lag: float = 0.0
    memory: float | None = None
    files: float | None = None


class Strain:
    """What is to be spared now, as flags that cost a request nothing to look at."""

    __slots__ = (
        "brief",
        "hang_up",
        "lag",
        "measures",
        "refuse",
        "retry_after",
        "spare",
        "turns_away",
    )

    def __init__(self) -> None:
        #: seconds by which the loop came late when it was last looked at
        self.lag = 0.0
        #: whole seconds, for who is turned away
        self.retry_after = 1
        self.put(frozenset())

    def put(self, measures: frozenset[Measure]) -> None:
        """From now on these hold."""
        self.measures = measures
        self.spare = Measure.SPARE in measures
        self.refuse = Measure.REFUSE in measures
        self.hang_up = Measure.HANG_UP in measures
        self.brief = Measure.BRIEF in measures
        #: some calls are turned away; which ones is looked at then
        self.turns_away = self.refuse or Measure.SHED in measures


class Gauge:
    """Reads the pressure.

    `memory` gives the bytes that we may use where `allowed`, what the system lets us have,
    is not less; 0 and None: no limit.
    """

    def __init__(self, memory: Callable[[], int], allowed: int | None) -> None:
        self._memory = memory
        self._allowed = allowed
        self.files = host.most_files()
        self._used: int | None = None
        self._open: int | None = None
        self._returned = 0.0

    def read(self, at: float, lag: float) -> Pressure:
        """Read it now; two or three system calls."""
        # Without a free file it cannot be read, and then least of all it is over.
        self._used = used = host.memory() or self._used
        self._open = files = host.open_files() or self._open
        most = min(filter(None, (self._memory(), self._allowed)), default=None)
        return Pressure(at, lag, _share(used, most), _share(files, self.files))

    def give_back(self, at: float) -> None:
        """Memory is short: what is free already must not count against us. Now and then."""
        if at >= self._returned + _RETURN:
            self._returned = at
            host.return_memory()


def _share(used: int | None, most: int | None) -> float | None:
    return used / most if used is not None and most else None
