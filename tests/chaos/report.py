"""`docs/reliability-results.md`, written from the figures of a run."""

import os
import platform
import re
import shutil
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_HEAD = """# Reliability: what was measured

Written by `make chaos`; the scenarios are in `tests/chaos`. Each starts its own fake Ollamas and
its own sidecar as processes, and breaks something in the middle of traffic. A bar has to hold in
every repetition. "÷ 5" at a bar: all intervals of that scenario, and its bars with them, were
divided by 5. After each repetition the fakes' books were checked: every request has one outcome,
generations that began have ended, none goes on more than 1 s without its client, what changes a
node was done once, no answer went to another client.
"""


def page(rows: Sequence[Row], skipped: Sequence[tuple[str, str]]) -> str:
    """The whole page; `skipped` are scenarios and why they were not run."""
    by_scenario: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_scenario[int(row["scenario"][1:]), row["title"]].append(row)
    ordered = [by_scenario[key] for key in sorted(by_scenario)]
    parts = [_HEAD, _machine(rows), _summary(ordered, skipped), *map(_scenario, ordered)]
    return "\n".join(parts)


def _machine(rows: Sequence[Row]) -> str:
    packages = ("ollama-wrap", "uvicorn", "httptools", "uvloop", "starlette", "httpx2")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    tools = ", ".join(name for name in ("slowhttptest", "h2load", "iptables") if shutil.which(name))
    took = sum(float(row["took"]) for row in rows)
    lines = [
        f"* Date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit `{_commit()}`",
        f"* Versions: Python {platform.python_version()}, {versions}",
        f"* Machine: {os.cpu_count()} cores ({_processor()}), {_memory()} GiB, {_system()}",
        f"* Tools beside our own: {tools or 'none'}",
        f"* {len(rows)} repetitions, {took / 60:.0f} min of work, two at a time where it may be",
    ]
    return "\n".join(lines) + "\n"


def _summary(scenarios: Sequence[Sequence[Row]], skipped: Sequence[tuple[str, str]]) -> str:
    lines = ["| scenario | | repetitions | result |", "|---|---|---|---|"]
    for rows in scenarios:
        name, title = rows[0]["scenario"], rows[0]["title"]
        held = sum(not row["missed"] and not row["error"] for row in rows)
        result = "pass" if held == len(rows) else f"**MISSED** in {len(rows) - held}"
        lines.append(f"| {name} | {title} | {len(rows)} | {result} |")
    lines += [f"| {name} | | 0 | not run: {why} |" for name, why in skipped]
    return "\n".join(lines) + "\n"


def _scenario(rows: Sequence[Row]) -> str:
    first = rows[0]
    lines = [f"## {first['scenario']}: {first['title']}", ""]
    if first["note"]:
        lines += [str(first["note"]), ""]
    lines += ["| figure | bar | measured | |", "|---|---|---|---|"]
    figures: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        for figure in row["figures"]:
            figures[figure["name"]].append(figure)
    for name, found in figures.items():
        result = "" if not found[0]["bar"] else "pass"
        if missed := sum(not figure["held"] for figure in found):
            result = f"**MISSED** in {missed} of {len(found)}"
        lines.append(f"| {name} | {found[0]['bar']} | {_spread(found)} | {result} |")
    problems = [problem for row in rows for problem in [*row["wrong"], row["error"]] if problem]
    if problems:
        lines += ["", "What was wrong:", ""]
        lines += [f"* {_inline(problem)}" for problem in dict.fromkeys(problems)]
    return "\n".join(lines) + "\n"


def _spread(found: Sequence[Row]) -> str:
    values = [float(figure["value"]) for figure in found]
    unit = f" {found[0]['unit']}".rstrip()
    low, high = min(values), max(values)
    if low == high:
        return f"{low:g}{unit}"
    return f"{low:.4g} to {high:.4g}{unit}, median {statistics.median(values):.4g}"


def _inline(text: str) -> str:
    # Whose machine it was is nobody's business.
    short = re.sub(r"(/[\w.+-]+)+/", "…/", re.sub(r"\s+", " ", text))[:300]
    return f"`{short.replace('`', chr(39))}`"


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", told.read_text("ascii")) if told.exists() else None
    return found[1] if found else platform.machine()


def _system() -> str:
    return f"{platform.system()} {platform.release().split('-')[0]}"


def _memory() -> int:
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
