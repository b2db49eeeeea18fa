"""With another node, what is not routed there is still what stock answers, byte for byte.

The same cases as alone, through a sidecar that knows a node with other models. What the
contract adds is taken out first: the other node's models and `nodes` in the lists, `distributed`
in the version. Everything else counts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.live.accepted import DISTRIBUTED, explained
from tests.live.cases import ALL, play
from tests.live.cases.base import Case, ask
from tests.live.compare import differences
from tests.live.exchange import Answer, Conversation, Header, converse
from tests.live.programs import Program, seed, start_ollama, start_sidecar

pytestmark = pytest.mark.live

THERE = "Quite other phrases come from node b."
SOON = 20.0
NODES = re.compile(rb',"nodes":\["[^]]*"\]')
COUNTS = re.compile(rb',"distributed":\{[^}]*\}')
NOT_HERE = re.compile(rb'\{"(?:name|id)":"far[^{}]*(?:\{[^{}]*\}[^{}]*)?\},?')
"""An entry of the other node in /api/tags, /api/ps or /v1/models."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A plain daemon, and a sidecar before its twin that knows another node."""

    direct: Program
    through: Program


@pytest.fixture(scope="module")
def pair(
    daemons: tuple[Program, Program],
    ollama_binary: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("distributed")
    node = start_ollama(ollama_binary, folder / "node")
    try:
        seed(node, folder, THERE, "far", "far2:1b", embedder="far-embedder")
        sidecar = start_sidecar(daemons[1], folder / "sidecar", OLLAMA_WRAP_NODES=f"b={node.url}")
    except BaseException:
        node.stop()
        raise
    _wait_for(sidecar, b'"far-embedder:latest"')
    yield Pair(daemons[0], sidecar)
    sidecar.stop()
    node.stop()


@pytest.mark.parametrize("case", ALL, ids=[case.name for case in ALL])
def test_client_cannot_tell_what_is_not_routed_from_stock(case: Case, pair: Pair) -> None:
    direct = play(pair.direct.address, case)

    through = play(pair.through.address, case)

    found = differences(direct, _as_alone(through))
    assert explained(case.name, found, DISTRIBUTED), "\n".join(found)


def test_accepted_differences_are_of_cases_that_exist() -> None:
    assert set(DISTRIBUTED) <= {case.name for case in ALL}


def test_what_the_contract_adds_is_there(pair: Pair) -> None:
    bodies = [
        converse(pair.through.address, ask("GET", target)).answers[0].body
        for target in ("/api/tags", "/v1/models", "/api/version")
    ]

    assert all(NODES.search(body) for body in bodies[:2])
    assert all(b'"far:latest"' in body for body in bodies[:2])
    assert COUNTS.search(bodies[2])


def _wait_for(sidecar: Program, name: bytes) -> None:
    end = time.monotonic() + SOON
    while name not in converse(sidecar.address, ask("GET", "/api/tags")).answers[0].body:
        if time.monotonic() > end:
            pytest.fail("the sidecar does not list the node's models")
        time.sleep(0.1)


def _as_alone(talk: Conversation) -> Conversation:
    return replace(talk, answers=tuple(_without_additions(answer) for answer in talk.answers))


def _without_additions(answer: Answer) -> Answer:
    body = COUNTS.sub(b"", NODES.sub(b"", answer.body))
    body = NOT_HERE.sub(b"", body).replace(b"},]", b"}]")
    if body == answer.body:
        return answer
    headers = tuple(_sized(one, body) for one in answer.headers)
    return replace(answer, chunks=(body,), headers=headers)


def _sized(header: Header, body: bytes) -> Header:
    name, value = header
    return (name, b"%d" % len(body)) if name.lower() == b"content-length" else (name, value)
