"""Overload: what is done about too little memory, a late loop and too few files.

    80 % of the memory     no answer is kept, buffers of streams are narrow
    90 %                   new inference is refused
    95 %                   idle connections are closed
    a late loop, for 5 s   new inference of low priority is refused
    90 % of the files      connections end after their answer

A measure ends well below where it begins, so that none flaps. That nodes are busy
never refuses anything. The decision is pure; only Overload itself reads and tells.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ollama_wrap.clock import Clock
from ollama_wrap.observe import log
from ollama_wrap.observe.pressure import EVERY, Measure, Pressure, Strain

#: shares at which measures begin
_MEMORY = {Measure.SPARE: 0.80, Measure.REFUSE: 0.90, Measure.HANG_UP: 0.95}
_FILES = {Measure.BRIEF: 0.90}
#: a measure ends when so much less is used
_EASED = 0.05
#: seconds by which a loop is late, by which it is punctual, and for which it has to be either
_LATE, _PUNCTUAL, _LASTING = 0.25, 0.125, 5.0


@dataclass(frozen=True, slots=True)
class Relief:
    """What holds. `turning`: since when the loop has spoken against what holds of SHED."""

    measures: frozenset[Measure] = frozenset()
    turning: float | None = None


def relief(before: Relief, pressure: Pressure) -> Relief:
    """What holds from this reading on, after what held `before`."""
    measures = {
        measure
        for shares, used in ((_MEMORY, pressure.memory), (_FILES, pressure.files))
        for measure, begins in shares.items()
        # What the system does not tell is no reason for anything.
        if used is not None and used > begins - _EASED * (measure in before.measures)
    }
    shed = Measure.SHED in before.measures
    turning = None
    if pressure.lag < _PUNCTUAL if shed else pressure.lag > _LATE:
        turning = pressure.at if before.turning is None else before.turning
        if pressure.at - turning >= _LASTING:
            shed, turning = not shed, None
    if shed:
        measures.add(Measure.SHED)
    return Relief(frozenset(measures), turning)


class Reader(Protocol):
    """What reads the pressure: `observe.pressure.Gauge`."""

    def read(self, at: float, lag: float) -> Pressure:
        """The pressure now."""

    def give_back(self, at: float) -> None:
        """Memory is short."""


class Overload:
    """Reads, decides, and sets `strain`.

    `retry_after` is asked, while anything holds, when whoever is turned away should
    come again, in whole seconds.
    """

    def __init__(
        self, reader: Reader, strain: Strain, retry_after: Callable[[], int], clock: Clock
    ) -> None:
        self._reader = reader
        self._strain = strain
        self._retry_after = retry_after
        self._clock = clock
        self._relief = Relief()
        self.pressure = Pressure(clock.monotonic())

    async def run(self) -> None:
        """Look for ever."""
        while True:
            began = self._clock.monotonic()
            await self._clock.sleep(EVERY)
            now = self._clock.monotonic()
            self.look(now, now - began - EVERY)

    def look(self, now: float, lag: float) -> None:
        """Read once and put in force what follows; `lag` is seconds."""
        self.pressure = self._reader.read(now, max(0.0, lag))
        self._strain.lag = self.pressure.lag
        before, self._relief = self._relief, relief(self._relief, self.pressure)
        measures = self._relief.measures
        if Measure.SPARE in measures:
            self._reader.give_back(now)
        if measures:
            self._strain.retry_after = self._retry_after()
        if measures != before.measures:
            self._strain.put(measures)
            self._say(before.measures)

    def _say(self, before: frozenset[Measure]) -> None:
        pressure, measures = self.pressure, self._relief.measures
        logger = log.get(__name__)
        say = logger.warning if measures - before else logger.info
        say(
            "overload" if measures else "overload is over",
            measures=" ".join(sorted(measures)),
            ended=" ".join(sorted(before - measures)),
            memory=_percent(pressure.memory),
            files=_percent(pressure.files),
            lag=round(pressure.lag, 3),
        )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"
