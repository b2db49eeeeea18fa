"""What the pages on reliability and security say is what the program does and what tests show."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from ollama_wrap.config import Settings, rows
from ollama_wrap.config.values import parse_seconds, parse_size
from ollama_wrap.nodes.verdict import Blame
from ollama_wrap.observe.pressure import Measure
from ollama_wrap.proxy import outcome, overload
from ollama_wrap.proxy.outcome import Outcome, Repeat

ROOT = Path(__file__).parents[1]
#: groups of settings that the page on reliability has in full
PROMISED = {"client", "upstream", "retry", "queue", "health", "circuit"}
#: rows of the security checklist whose surface is built
BUILT = [
    f"S{number:02d}"
    for number in (
        *range(1, 30),
        31,
        32,
        *range(35, 38),
        *range(39, 42),
        47,
        48,
        54,
        *range(65, 76),
    )
]
AGAINST = {
    "the node": Blame.NODE,
    "the model there": Blame.MODEL,
    "the model there, twice": Blame.MODEL_DOUBLE,
    "nobody": Blame.NONE,
}


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def table(name: str, heading: str = "") -> Iterator[list[str]]:
    """The rows of all tables of a page, or of the part under a heading."""
    text = page(name)
    if heading:
        text = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    for line in text.splitlines():
        if line.startswith("|") and not line.startswith("|-"):
            yield [cell.strip() for cell in line[1:-1].split(" | ")]


# ---------------------------------------------------------------- numbers


def numbers() -> dict[str, str]:
    """Settings and constants of the page on reliability, with the values it gives them."""
    named = re.compile(r"`([a-z_]+(?:\.\w+)+)`")
    return {found[1]: row[1] for row in table("reliability") if (found := named.fullmatch(row[0]))}


@pytest.mark.parametrize("name", numbers())
def test_number_on_the_page_is_the_program_s(name: str) -> None:
    told = numbers()[name]
    settings = {row.key: row.default for row in rows(Settings)}

    if name in settings:
        assert told == settings[name]
    else:
        module, _, attribute = name.rpartition(".")
        held = getattr(importlib.import_module(f"ollama_wrap.{module}"), attribute)
        read = parse_seconds if isinstance(held, float) else parse_size
        assert read(told) == held


def test_every_limit_is_on_the_page() -> None:
    wanted = {row.key for row in rows(Settings) if row.path[0] in PROMISED}

    assert wanted - numbers().keys() == set()


def test_what_is_tried_again_is_the_table_of_outcomes() -> None:
    told = [
        (row[0].split("`")[1], Repeat(row[1]), AGAINST[row[2]])
        for row in table("reliability", "What is tried again")
        if row[0].startswith("`") and row[2] in AGAINST
    ]
    ends = [one for one in vars(outcome).values() if isinstance(one, Outcome)]
    held = [
        (one.word, one.repeat, one.blame)
        for one in ends
        if one not in (outcome.SERVED, outcome.LEFT)
    ]

    assert sorted(told, key=str) == sorted(held, key=str)


def test_measures_begin_where_the_page_says() -> None:
    told = {row[0].strip("`"): row[1] for row in table("reliability", "Waiting and turning away")}
    shares = {**overload._MEMORY, **overload._FILES}

    for measure in Measure:
        if measure is Measure.SHED:
            late, lasting = re.findall(r"\d+m?s", told[measure])
            assert parse_seconds(late) == overload._LATE
            assert parse_seconds(lasting) == overload._LASTING
        else:
            of = "memory" if measure in overload._MEMORY else "files"
            assert told[measure] == f"{shares[measure]:.0%} of the {of}".replace("%", " %")


@pytest.mark.parametrize("name", ["reliability", "security", "threat-model", "hardening"])
def test_page_names_settings_that_there_are(name: str) -> None:
    known = {one for row in rows(Settings) for one in row.names}
    secret = {f"{one}_FILE" for row in rows(Settings) if row.secret for one in row.names}

    named = set(re.findall(r"\bOLLAMA_[A-Z_]*[A-Z]\b", page(name)))

    assert named - known - secret == set()


# ---------------------------------------------------------------- tests


def ids(text: str) -> set[str]:
    """Rows that a text names: `S01 to S08, S10`."""
    spans = re.findall(r"\bS(\d\d)(?: to S(\d\d))?\b", text)
    return {
        f"S{number:02d}"
        for first, last in spans
        for number in range(int(first), int(last or first) + 1)
    }


@cache
def rows_of_tests(path: Path) -> dict[str, set[str]]:
    """The tests of a file, with the rows of the checklist that their docstrings name."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.name: ids(ast.get_docstring(node) or "")
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def links() -> list[tuple[str, str, str]]:
    """Row, file and test of each link on the page."""
    found = []
    for row in table("threat-model", "Line by line"):
        for path, names in re.findall(r"\]\(\.\./([^)]+)\): ([^;]*)", row[-1]):
            found += [(row[0], path, name) for name in re.findall(r"`(\w+)`", names)]
    return found


def test_every_link_leads_to_a_test_of_that_row() -> None:
    wrong = [
        link for link in links() if link[0] not in rows_of_tests(ROOT / link[1]).get(link[2], set())
    ]

    assert wrong == []


def test_every_row_that_can_be_tested_is() -> None:
    assert [row for row in BUILT if row not in {link[0] for link in links()}] == []


def test_every_test_of_a_row_is_on_the_page() -> None:
    told = set(links())
    missing = [
        (row, path.relative_to(ROOT).as_posix(), name)
        for path in sorted((ROOT / "tests/security").glob("test_*.py"))
        for name, found in rows_of_tests(path).items()
        for row in sorted(found)
    ]

    assert [link for link in missing if link not in told] == []
