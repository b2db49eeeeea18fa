"""`make chaos`: all scenarios, or those that are named, and the page of what was measured.

Scenarios that measure milliseconds or load the machine run alone, all others two at a time.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.figures import rows
from tests.chaos.report import page

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/reliability-results.md"
#: seconds of one test
LONGEST = 900


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--only", default="", help="ids of scenarios: 'C1 C2'")
    parser.add_argument("--reps", type=int, default=5, help="repetitions of each")
    parser.add_argument("--page", type=Path, help=f"where to write; all scenarios: {PAGE.name}")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        figures = Path(folder) / "figures"
        figures.touch()
        options = ["--chaos", "--reps", str(given.reps), "--figures", str(figures)]
        options += ["--only", given.only] if given.only else []
        ours = ["tests/chaos", *options, "-m"]
        codes = [
            _pytest(Path(folder), "alone", [*ours, "alone"]),
            _pytest(Path(folder), "pairs", [*ours, "not alone", "-n", "2", "--dist", "worksteal"]),
        ]
        if not given.only:
            # Rows of the security checklist that need other programs.
            codes.append(_pytest(Path(folder), "security", ["tests/security", "-m", "chaos"]))
        found = [dict(row) for row in rows(figures)]
        text = page(found, _skipped(Path(folder)))
    # A part of the scenarios is no result of the whole.
    where = given.page or (PAGE if not given.only else None)
    if where is not None:
        where.write_text(text, "utf-8")
    print(text)
    # 5: nothing of that half was wanted.
    return max((code for code in codes if code != 5), default=5)


def _pytest(folder: Path, name: str, options: Sequence[str]) -> int:
    fixed = ["-q", "--timeout", str(LONGEST), "-p", "no:cacheprovider"]
    fixed += [f"--junitxml={folder / name}.xml", f"--basetemp={folder / name}"]
    command = [sys.executable, "-m", "pytest", *options, *fixed]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def _skipped(folder: Path) -> list[tuple[str, str]]:
    """Scenarios that were not run, each with its reason, once."""
    found = {}
    for path in sorted(folder.glob("*.xml")):
        for case in ET.parse(path).iter("testcase"):
            for one in case.iter("skipped"):
                if named := re.match(r"test_(c\d+)_", case.get("name", "")):
                    found[named[1].upper()] = one.get("message", "")
    return sorted(found.items())


if __name__ == "__main__":
    sys.exit(main())
