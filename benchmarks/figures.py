"""The figures that a release must have, from the cells of one run."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cells import TESTS
from report import Table, median, number, quiet

OURS = "wrap-distributed"


class Unmeasured(Exception):
    """A cell is not there."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Medians by test, candidate and column."""

    table: Table
    foreign: float

    def __call__(self, test: str, name: str, title: str) -> float:
        cells = self.table.get((test, name))
        if not cells:
            raise Unmeasured(f"{test} {name}")
        metric = next(metric for metric in TESTS[test].metrics if metric.title == title)
        return median(metric, quiet(cells, self.foreign))

    def ratio(self, test: str, name: str, beside: str, title: str) -> float:
        return self(test, name, title) / self(test, beside, title)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row. `must` decides whether the run passes, `reach` is what comes next."""

    what: str
    value: Callable[[Cells], float]
    must: float | None
    reach: float | None
    holds: Callable[[float, float], bool] = operator.le


def _ratio(test: str, beside: str, title: str, name: str = OURS) -> Callable[[Cells], float]:
    return lambda cells: cells.ratio(test, name, beside, title)


def _plain(test: str, title: str, name: str = OURS) -> Callable[[Cells], float]:
    return lambda cells: cells(test, name, title)


def _added(title: str) -> Callable[[Cells], float]:
    """Milliseconds."""
    return lambda cells: (
        (cells("paced256", OURS, title) - cells("paced256", "direct", title)) / 1000
    )


def _more_connections(cells: Cells) -> float:
    costs = [cells(test, OURS, "cpu us/req") for test in ("gen64", "gen16")]
    return costs[0] / costs[1]


def _millis(test: str, title: str, name: str = OURS) -> Callable[[Cells], float]:
    return lambda cells: cells(test, name, title) / 1000


REQ, LINE = "cpu us/req", "cpu us/line"
FIGURES: Sequence[Figure] = (
    Figure("requests a second, gen16, × go", _ratio("gen16", "go", "req/s"), 1.0, 2.0, operator.ge),
    Figure("requests a second, gen64, × go", _ratio("gen64", "go", "req/s"), 1.0, 2.0, operator.ge),
    Figure("requests a second, gen16, × c1", _ratio("gen16", "c1", "req/s"), 10, 10, operator.ge),
    Figure("requests a second, gen64, × c1", _ratio("gen64", "c1", "req/s"), 10, 10, operator.ge),
    Figure("CPU a request, rate500, × go", _ratio("rate500", "go", REQ), 1.0, None),
    Figure("CPU a request, rate500, × nginx", _ratio("rate500", "nginx", REQ), None, 1.8),
    Figure("CPU a token, paced256, × go", _ratio("paced256", "go", LINE), 1.0, 1.0),
    Figure("CPU a token, paced256, × nginx", _ratio("paced256", "nginx", LINE), 1.8, 1.3),
    Figure("added to the first token, p50, ms", _added("first p50 us"), 0.6, 0.3),
    Figure("added to the first token, p99, ms", _added("first p99 us"), 3, 1),
    Figure("CPU a request, 64 × 16 connections", _more_connections, 1.1, 1.0),
    Figure(
        "CPU a request, gen16, 20 nodes × 1",
        _ratio("gen16", OURS, REQ, "wrap-20-nodes"),
        1.1,
        1.0,
    ),
    Figure("memory of an open stream, KiB", _plain("idle", "KiB/stream"), 24, 12),
    Figure("memory at rest, MiB", _plain("rest", "MiB"), 90, 90),
    Figure("a 200 MB upload adds, MiB", _plain("upload200", "memory +MiB"), 10, 10),
    Figure("a 1 GB upload adds, MiB", _plain("upload", "memory +MiB"), 8, 8),
    Figure("client gone in the stream, p99, ms", _millis("cancel", "p99 us"), 20, 2),
    Figure("client gone before the head, p99, ms", _millis("cancel-early", "p99 us"), 20, 2),
    Figure("/api/tags, dead nodes, median, ms", _millis("tags", "p50 us", "wrap-dead-node"), 5, 5),
    Figure(
        "/api/tags, dead nodes, longest, ms",
        _millis("tags", "max us", "wrap-dead-node"),
        None,
        None,
    ),
    Figure("32 MiB to be read: longest gap, ms", _millis("pause", "line max us"), 10, 10),
)
#: tests and candidates that the column `must` needs
TESTS_NEEDED = (
    "gen16", "gen64", "rate500", "paced256", "idle", "rest", "upload", "upload200", "cancel",
    "cancel-early", "tags", "pause",
)  # fmt: skip
NAMES_NEEDED = (OURS, "wrap-20-nodes", "nginx", "go", "c1", "direct")


def verdict(table: Table, foreign: float) -> tuple[str, bool]:
    """The rows as Markdown, and whether nothing that must hold fails or is missing."""
    cells = Cells(table, foreign)
    lines = ["| figure | is | must | | reach | |", "|---|---|---|---|---|---|"]
    passed = True
    for figure in FIGURES:
        try:
            value = figure.value(cells)
        except Unmeasured as missing:
            if figure.must is None:
                continue
            passed = False
            lines.append(f"| {figure.what} | not measured: {missing} | | | | |")
            continue
        must, reach = (_judged(figure, value, limit) for limit in (figure.must, figure.reach))
        passed = passed and "FAIL" not in must
        lines.append(f"| {figure.what} | {number(value)} | {must} | {reach} |")
    return "\n".join(lines), passed


def _judged(figure: Figure, value: float, limit: float | None) -> str:
    if limit is None:
        return " | "
    sign = "≥" if figure.holds is operator.ge else "≤"
    word = "pass" if figure.holds(value, limit) else "FAIL"
    return f"{sign} {limit:g} | {word}"
