"""Medians and ratios of cells, as Markdown."""

import collections
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from candidates import CANDIDATES
from cells import TESTS, Cell, Metric, fault, scaled

#: by test and candidate
Table = Mapping[tuple[str, str], Sequence[Cell]]
#: below this share of a core, the proxy was not what limited a throughput
FULL = 88


def read(files: Iterable[Path]) -> tuple[Table, list[str]]:
    """The cells of raw results, and a sentence for each that cannot be used."""
    table: dict[tuple[str, str], list[Cell]] = collections.defaultdict(list)
    left_out = []
    for file in files:
        for line in file.read_text().splitlines():
            cell = json.loads(line)
            if why := fault(cell):
                left_out.append(f"{cell['test']} {cell['name']}: {why}")
            else:
                table[cell["test"], cell["name"]].append(scaled(cell))
    return table, left_out


def quiet(cells: Sequence[Cell], foreign: float) -> Sequence[Cell]:
    """Those during which others used less than `foreign` of a core; else the quietest."""
    found = [cell for cell in cells if cell["foreign"] <= foreign]
    return found or [min(cells, key=lambda cell: cell["foreign"])]


def median(metric: Metric, cells: Sequence[Cell]) -> float:
    return statistics.median(map(metric.read, cells))


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def markdown(table: Table, beside: Sequence[str], foreign: float) -> str:
    """One table a test."""
    parts = []
    for test in TESTS:
        names = [name for name in CANDIDATES if table.get((test, name))]
        if names:
            chosen = {name: quiet(table[test, name], foreign) for name in names}
            parts.append("\n".join(_table(test, chosen, beside)))
    return "\n\n".join(parts)


def _table(test: str, cells: Mapping[str, Sequence[Cell]], beside: Sequence[str]) -> list[str]:
    metrics = TESTS[test].metrics
    medians = {name: [median(metric, of) for metric in metrics] for name, of in cells.items()}
    against = [name for name in beside if name in medians]
    title = f"### {test}" + (f" (in brackets: × {' / '.join(against)})" if against else "")
    heads = ["candidate", "cells", *(metric.title for metric in metrics), "foreign"]
    lines = [title, "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, values in medians.items():
        core = next((v for m, v in zip(metrics, values, strict=True) if m.title == "core %"), 100)
        columns = []
        for at, (metric, value) in enumerate(zip(metrics, values, strict=True)):
            bases = [medians[one][at] for one in against]
            ratios = "/".join(f"{value / base:.2f}" if base else "-" for base in bases)
            star = " *" if metric.limited and core < FULL else ""
            columns.append(number(value) + (f" ({ratios})" if ratios else "") + star)
        of = cells[name]
        foreign = statistics.median(cell["foreign"] for cell in of)
        lines.append(
            f"| {name}{_notes(of)} | {len(of)} | {' | '.join(columns)} | {max(0, foreign):.2f} |"
        )
    return lines


def _notes(cells: Sequence[Cell]) -> str:
    errors, lost = (sum(cell.get(key, 0) for cell in cells) for key in ("errors", "lost"))
    return (f" {errors} errors" if errors else "") + (f" {lost} lost" if lost else "")
