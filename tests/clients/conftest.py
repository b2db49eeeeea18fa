"""What every client talks to: one sidecar in mode local, one in mode distributed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.programs import Cluster, build

Fresh = Callable[..., Cluster]


@pytest.fixture(scope="session")
def _in_mode_local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = build(tmp_path_factory.mktemp("local"), "local")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def _in_mode_distributed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = build(tmp_path_factory.mktemp("distributed"), "distributed")
    yield made
    made.stop()


@pytest.fixture(params=["local", "distributed"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Both modes in turn: what a client sees of the local Ollama is the same."""
    found: Cluster = request.getfixturevalue(f"_in_mode_{request.param}")
    return _clean(found)


@pytest.fixture
def distributed(_in_mode_distributed: Cluster) -> Cluster:
    return _clean(_in_mode_distributed)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Fresh]:
    """Start clusters of one's own, to be damaged."""
    made: list[Cluster] = []

    def start(mode: str, **more: str) -> Cluster:
        made.append(build(tmp_path, mode, **more))
        return made[-1]

    yield start
    for one in made:
        one.stop()


def _clean(cluster: Cluster) -> Cluster:
    cluster.local.reset()
    cluster.node.reset()
    return cluster
