from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_wrap import app
from ollama_wrap.cli.greeting import command, start_line
from ollama_wrap.config import Settings
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.runtime import Runtime


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def runtime(folder: Path, nodes: str = "", **more: Any) -> Runtime:
    given = {"nodes": {"text": nodes}, "state": {"store": "memory", "dir": folder}, **more}
    return app.build(Settings.model_validate(given))


def mode(line: str) -> str:
    return line.partition("mode ")[2].partition(",")[0]


def test_line_without_anything_says_so(folder: Path) -> None:
    line = start_line(runtime(folder))

    assert line.endswith(
        "on http://127.0.0.1:11434, no Ollama at http://127.0.0.1:11436, "
        "mode local (no other node is set), nodes: none"
    )
    assert line.isascii()


def test_nodes_are_named_with_their_states(folder: Path) -> None:
    made = runtime(folder, "tower=http://a,attic=http://b")
    attic = made.fleets.current.others[1]
    attic.health = replace(attic.health, probed=NodeState.DOWN)

    line = start_line(made)

    assert mode(line) == "distributed (other nodes are set)"
    assert line.endswith("nodes: tower joining, attic down")


def test_many_nodes_are_counted(folder: Path) -> None:
    made = runtime(folder, ",".join(f"http://n{number}" for number in range(20)))

    assert start_line(made).endswith("nodes: 20 joining")


@pytest.mark.parametrize(
    "more, said",
    [
        ({"distributed": False}, "local (OLLAMA_DISTRIBUTED is false)"),
        ({"standalone": True}, "standalone (OLLAMA_STANDALONE is true)"),
    ],
)
def test_mode_comes_with_who_decided(folder: Path, more: dict[str, Any], said: str) -> None:
    assert mode(start_line(runtime(folder, "http://a", **more))) == said


def test_nodes_that_cannot_be_read_are_the_reason_of_the_mode(folder: Path) -> None:
    made = runtime(folder, "http://a;weight=heavy")
    made.settle()

    assert mode(start_line(made)) == "local (nodes or routes or the store cannot be used)"


def test_checkout_is_told_of_make() -> None:
    assert command("demo") == "make demo"
    assert command("serve") == "make run"
