"""What live tests run against: a stock Ollama from outside, or they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.programs import Program, find_ollama, start_sidecar, twins


@pytest.fixture(scope="session")
def ollama_binary() -> Path:
    found = find_ollama()
    if found is None:
        pytest.skip("no real Ollama: set OLLAMA_WRAP_TEST_OLLAMA or put `ollama` on the PATH")
    return found


@pytest.fixture(scope="module")
def daemons(
    ollama_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Program, Program]]:
    pair = twins(ollama_binary, tmp_path_factory.mktemp("twins"))
    yield pair
    for daemon in pair:
        daemon.stop()


@pytest.fixture(scope="module")
def sidecar(
    daemons: tuple[Program, Program], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:
    """Stands before the second of the twins."""
    program = start_sidecar(daemons[1], tmp_path_factory.mktemp("sidecar"))
    yield program
    program.stop()
