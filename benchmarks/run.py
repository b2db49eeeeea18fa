"""The sidecar beside other proxies, on one machine, loopback only. See README.md.

    python run.py                              check, three rounds of everything, results/<date>.md
    python run.py --rounds 1 --tests gen16     part of it; the table goes to build/
    python run.py --check                      is each candidate a correct proxy?
    python run.py --figures                    what a release must have: pass or fail
    python run.py --report build/raw.jsonl     the table of earlier cells

Each round visits every test, and within it every candidate in shuffled order, so
that drift of the machine falls on all alike.
"""

import argparse
import datetime
import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import candidates
import cells
import figures
import machine
import report
import toolchain
from bench import Bench, usable
from check import Check

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
BESIDE = ("go", "nginx", "c1")
ROUNDS = 3
#: a share of a core: above it a cell is repeated, then left out where a quiet one exists
FOREIGN = 0.15


def options() -> argparse.Namespace:
    first, *_ = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=first)
    parser.add_argument("--names", help=f"of {', '.join(candidates.CANDIDATES)}")
    parser.add_argument("--tests", help=f"of {', '.join(cells.TESTS)}; or all")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--check", action="store_true", help="nothing but the check")
    parser.add_argument("--no-check", action="store_true", help="measure at once")
    parser.add_argument("--figures", action="store_true", help="what a release must have")
    parser.add_argument("--report", nargs="+", type=Path, metavar="RAW")
    parser.add_argument("--foreign", type=float, default=FOREIGN)
    chosen = parser.parse_args()
    # Only a whole run is a result.
    chosen.whole = not (chosen.names or chosen.tests or chosen.rounds or chosen.figures)
    needed = (figures.NAMES_NEEDED, figures.TESTS_NEEDED)
    usual = needed if chosen.figures else (candidates.USUAL, cells.USUAL)
    chosen.names = _listed(chosen.names, usual[0], candidates.CANDIDATES)
    everything = tuple(cells.TESTS) if chosen.tests == "all" else usual[1]
    chosen.tests = _listed(None if chosen.tests == "all" else chosen.tests, everything, cells.TESTS)
    chosen.rounds = chosen.rounds or ROUNDS
    return chosen


def _listed(given: str | None, usual: Sequence[str], known: object) -> list[str]:
    chosen = given.split(",") if given else list(usual)
    if unknown := [one for one in chosen if one not in known]:
        raise SystemExit(f"unknown: {', '.join(unknown)}")
    return chosen


def check(bench: Bench, names: Sequence[str]) -> tuple[list[str], bool]:
    """A line for each candidate, and whether the sidecar is right in all its settings."""
    lines, right = [], True
    for name in names:
        if name not in bench.up:
            bench.start(name)
        faults = Check(bench, name).run()
        lines.append(f"{name}: {'; '.join(faults) or 'ok'}")
        print(lines[-1], flush=True)
        right = right and not (faults and candidates.CANDIDATES[name].ours)
    return lines, right


def plan(names: Sequence[str], tests: Sequence[str]) -> dict[str, list[str]]:
    """The candidates of each test, shuffled; those that a test is made for come by themselves."""
    planned = {}
    for test in tests:
        only = [name for name in cells.TESTS[test].only if candidates.CANDIDATES[name].special]
        fitting = [name for name in names if usable(name, test)]
        special = only if "wrap-distributed" in names else []
        planned[test] = random.sample(fitting + special, len(fitting + special))
    return planned


def measure(bench: Bench, chosen: argparse.Namespace, raw: Path) -> None:
    with raw.open("a") as out:
        for at in range(chosen.rounds):
            for test, names in plan(chosen.names, chosen.tests).items():
                for name in names:
                    for cell in repeated(bench, name, test, chosen.foreign):
                        out.write(json.dumps(cell | {"round": at}) + "\n")
                        out.flush()
                    if candidates.CANDIDATES[name].special:
                        bench.stop(name)
                print(f"{time.strftime('%H:%M:%S')} round {at + 1} {test}", flush=True)


def repeated(bench: Bench, name: str, test: str, foreign: float) -> list[cells.Cell]:
    """One cell, or up to three where others used the cores."""
    found = []
    for _ in range(3 if cells.TESTS[test].quiet else 1):
        found.append(bench.cell(name, test))
        if found[-1]["foreign"] <= foreign:
            break
        time.sleep(1)
    return found


def head(rounds: int) -> str:
    commit = subprocess.run(
        ["git", "-C", HERE, "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "\n".join(
        (
            f"# {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            "",
            f"- commit: {commit.stdout.strip() or 'unknown'}; rounds: {rounds}",
            f"- machine: {machine.description()}",
            f"- versions: {toolchain.versions(BUILD)}",
        )
    )


def page(raw: Sequence[Path], foreign: float, before: str = "") -> tuple[str, bool]:
    """Everything that the raw cells say, and whether all that must hold does."""
    table, left_out = report.read(raw)
    rows, passed = figures.verdict(table, foreign)
    parts = [before, "## Figures", rows, "## Tests", report.markdown(table, BESIDE, foreign)]
    if left_out:
        parts += ["Left out:", "\n".join(f"- {one}" for one in left_out)]
    return "\n\n".join(filter(None, parts)) + "\n", passed


def written(chosen: argparse.Namespace, text: str) -> Path:
    if not chosen.whole:
        path = BUILD / "report.md"
    else:
        path = HERE / "results" / f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}.md"
        path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def run(chosen: argparse.Namespace) -> int:
    toolchain.prepare(BUILD, chosen.names)
    raw = BUILD / f"{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    with Bench(BUILD, chosen.names) as bench:
        for name in chosen.names:
            bench.start(name)
        checked, right = ([], True) if chosen.no_check else check(bench, chosen.names)
        if chosen.check:
            return 0 if right else 1
        if not right:
            print("not measured: a proxy that is not correct is not fast", file=sys.stderr)
            return 1
        measure(bench, chosen, raw)
    before = [head(chosen.rounds)]
    if checked:
        before += ["## Check", "\n".join(f"- {line}" for line in checked)]
    text, passed = page([raw], chosen.foreign, "\n\n".join(before))
    print(text)
    print(f"written to {written(chosen, text)}, raw cells in {raw}")
    return 0 if passed or not (chosen.figures or chosen.whole) else 1


def end(*_: object) -> None:
    """As an exception, so that what runs is stopped; once, so that nothing interrupts that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(1)


def main() -> int:
    chosen = options()
    if chosen.report:
        print(page(chosen.report, chosen.foreign)[0])
        return 0
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, most), most))
    try:
        return run(chosen)
    except (toolchain.Missing, RuntimeError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
