"""The `ollama` command in a cluster: what it prints of a model that only the other node has.

The local daemon is empty at the start. Each command is asked of the node itself first, and of
a sidecar that knows it: both print the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.programs import Program, seed, start_ollama, start_sidecar
from tests.live.test_cli import Printed, run
from tests.live.tiny_gguf import write_sentence_model

pytestmark = pytest.mark.live

THERE = "Quite other phrases come from node b."
MINE = "Made where the command was given."
SOON = 20.0
READING = (
    ("show", "far"),
    ("show", "far", "--modelfile"),
    ("show", "far", "--template"),
    ("show", "nowhere"),
    ("run", "far", "hi"),
    ("run", "far", "hi", "--verbose"),
    ("run", "far", "hi", "--keepalive", "30m"),
    ("run", "far:nothing", "hi"),
    ("run", "127.0.0.1:1/a/nope", "hi"),
    ("run", "far-embedder", "hi"),
    ("stop", "far"),
    ("stop", "nowhere"),
    ("cp", "nowhere", "other"),
    ("rm", "nowhere"),
    ("push", "nowhere"),
)


@dataclass(frozen=True, slots=True)
class Cluster:
    here: Program
    there: Program
    sidecar: Program


@pytest.fixture(scope="module")
def cluster(ollama_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cli")
    started: list[Program] = []
    try:
        here = start_ollama(ollama_binary, folder / "here")
        started.append(here)
        there = start_ollama(ollama_binary, folder / "there")
        started.append(there)
        seed(there, folder, THERE, "far", embedder="far-embedder")
        nodes = f"b={there.url}"
        sidecar = start_sidecar(here, folder / "sidecar", OLLAMA_WRAP_NODES=nodes)
        started.append(sidecar)
        made = Cluster(here, there, sidecar)
        eventually(ollama_binary, sidecar, folder, ("list",), shows="far:latest")
        yield made
    finally:
        for program in reversed(started):
            program.stop()


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_command_prints_of_a_far_model_what_its_node_prints(
    command: tuple[str, ...], ollama_binary: Path, cluster: Cluster, tmp_path: Path
) -> None:
    direct = run(ollama_binary, cluster.there, command, tmp_path)

    through = run(ollama_binary, cluster.sidecar, command, tmp_path)

    assert through == direct


def test_loaded_model_of_the_node_is_shown_and_stopped(
    ollama_binary: Path, cluster: Cluster, tmp_path: Path
) -> None:
    assert THERE in run(ollama_binary, cluster.sidecar, ("run", "far", "hi"), tmp_path)[1]
    shown = eventually(ollama_binary, cluster.sidecar, tmp_path, ("ps",), shows="far:latest")

    direct = run(ollama_binary, cluster.there, ("ps",), tmp_path)
    stopped = run(ollama_binary, cluster.sidecar, ("stop", "far"), tmp_path)

    # Their order is that of the last look: a plain node is asked every ten seconds.
    assert sorted(shown[1].splitlines()) == sorted(direct[1].splitlines())
    assert stopped[0] == 0
    eventually(ollama_binary, cluster.there, tmp_path, ("ps",), hides="far:latest")
    eventually(ollama_binary, cluster.sidecar, tmp_path, ("ps",), hides="far:latest")


def test_far_model_is_copied_based_on_and_removed_where_it_is(
    ollama_binary: Path, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "Modelfile").write_text("FROM far\nSYSTEM Be brief.\n")

    def through(*command: str) -> Printed:
        return run(ollama_binary, cluster.sidecar, command, tmp_path)

    copied = through("cp", "far", "twin")
    eventually(ollama_binary, cluster.sidecar, tmp_path, ("list",), shows="twin:latest")
    made = through("create", "based", "-f", "Modelfile")
    eventually(ollama_binary, cluster.sidecar, tmp_path, ("list",), shows="based:latest")
    said = through("run", "based", "hi")
    shown = through("show", "based", "--system")
    there = run(ollama_binary, cluster.there, ("list",), tmp_path)[1]
    removed = through("rm", "twin", "based")

    assert (copied[0], made[0], removed[0]) == (0, 0, 0)
    assert "twin:latest" in there
    assert "based:latest" in there
    assert THERE in said[1]
    assert "Be brief." in shown[1]
    eventually(ollama_binary, cluster.sidecar, tmp_path, ("list",), hides="twin:latest")
    eventually(ollama_binary, cluster.sidecar, tmp_path, ("list",), hides="based:latest")
    assert "far:latest" in through("list")[1]


def test_model_made_from_a_file_is_made_on_this_host(
    ollama_binary: Path, cluster: Cluster, tmp_path: Path
) -> None:
    write_sentence_model(tmp_path / "mine.gguf", MINE)
    (tmp_path / "Modelfile").write_text("FROM ./mine.gguf\nTEMPLATE {{ .Prompt }}\n")

    made = run(ollama_binary, cluster.sidecar, ("create", "mine", "-f", "Modelfile"), tmp_path)
    said = run(ollama_binary, cluster.sidecar, ("run", "mine", "hi"), tmp_path)
    here = run(ollama_binary, cluster.here, ("list",), tmp_path)
    removed = run(ollama_binary, cluster.sidecar, ("rm", "mine"), tmp_path)

    assert (made[0], removed[0]) == (0, 0)
    assert MINE in said[1]
    assert "mine:latest" in here[1]


def eventually(
    binary: Path,
    server: Program,
    folder: Path,
    command: tuple[str, ...],
    *,
    shows: str = "",
    hides: str = "",
) -> Printed:
    """Ask again until a command prints something, or does not any more."""
    end = time.monotonic() + SOON
    while True:
        printed = run(binary, server, command, folder)
        if shows in printed[1] and not (hides and hides in printed[1]):
            return printed
        if time.monotonic() > end:
            pytest.fail(f"{command} still prints {printed[1]}")
        time.sleep(0.1)
