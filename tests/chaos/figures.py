"""What a scenario measured, beside the bars it is held to; a line in a file for each run.

A bar that is a time counts only in `make chaos`; in `make test` the machine may be busy with
other tests. Times and bars are divided by one factor where a run is shorter than its event.
"""

import json
import os
import time
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and what it was held to."""

    name: str
    value: float
    unit: str
    bar: str
    held: bool


@dataclass(slots=True)
class Run:
    """One repetition of one scenario.

    `full`: with times, as in `make chaos`. `seconds`: how long it may take. `factor`: what its
    intervals and bars were divided by.
    """

    scenario: str
    title: str
    full: bool = False
    repetition: int = 1
    seconds: float = 8.0
    factor: float = 1.0
    note: str = ""
    figures: list[Figure] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.time)

    def divide(self, full: float, short: float) -> None:
        """Divide intervals and bars by one of these: in `make chaos`, in `make test`."""
        self.factor = full if self.full else short

    def most(self, name: str, value: float, limit: float, unit: str = "") -> None:
        """`value` may be `limit` at most."""
        self._add(name, value, unit, f"≤ {limit:g}{_spaced(unit)}", held=value <= limit)

    def least(self, name: str, value: float, limit: float, unit: str = "") -> None:
        """`value` must be `limit` at least."""
        self._add(name, value, unit, f"≥ {limit:g}{_spaced(unit)}", held=value >= limit)

    def within(self, name: str, seconds: float | None, limit: float) -> None:
        """It took at most `limit` seconds divided by the factor; None: it never happened."""
        bar = f"≤ {limit:g} s" + (f" ÷ {self.factor:g}" if self.factor != 1 else "")
        if seconds is None:
            self.wrong.append(f"{name}: never")
            return
        held = seconds <= limit / self.factor or not self.full
        self._add(name, seconds, "s", bar, held=held)

    def timed(self, name: str, value: float, limit: float, unit: str) -> None:
        """As `most`, of a figure that depends on how busy the machine is."""
        bar = f"≤ {limit:g}{_spaced(unit)}"
        self._add(name, value, unit, bar, held=value <= limit or not self.full)

    def seen(self, name: str, value: float, unit: str = "") -> None:
        """A figure without a bar."""
        self._add(name, value, unit, "", held=True)

    def none(self, name: str, found: Collection[object]) -> None:
        """There may be none of these; the first few are told."""
        self.most(name, len(found), 0)
        self.wrong += [f"{name}: {one}" for one in list(found)[:3]]

    def must(self, what: str, held: bool) -> None:
        """Something has to be so."""
        if not held:
            self.wrong.append(what)

    @property
    def missed(self) -> list[str]:
        """The bars that were missed and what was wrong, in words."""
        over = [f"{one.name}: {one.value:g}, bar {one.bar}" for one in self.figures if not one.held]
        return over + self.wrong

    def _add(self, name: str, value: float, unit: str, bar: str, *, held: bool) -> None:
        self.figures.append(Figure(name, round(value, 4), unit, bar, held))

    def write(self, path: Path, error: str = "") -> None:
        """Append what came of it as one line."""
        row = {**asdict(self), "missed": self.missed, "error": error}
        row["took"] = round(time.time() - self.began, 1)
        line = (json.dumps(row) + "\n").encode()
        # One write: several processes append to the file.
        with path.open("ab", buffering=0) as out:
            out.write(line)
            os.fsync(out.fileno())


def rows(path: Path) -> Iterable[dict[str, object]]:
    """What was written, run after run."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _spaced(unit: str) -> str:
    return f" {unit}" if unit and unit != "%" else unit
