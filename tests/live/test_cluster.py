"""Two real daemons that say different sentences, and one sidecar that makes them one Ollama.

Daemon A is the local one; node `b` has a model that A lacks, and another build of a shared one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ollama
import pytest

from tests.live.cases.base import ask, send
from tests.live.exchange import PATIENCE, Answer, Line, converse
from tests.live.programs import Program, seed, start_ollama, start_sidecar

pytestmark = pytest.mark.live

HERE = "Words that only the local daemon says."
THERE = "Quite other phrases come from node b."
ENDLESS = " ".join(f"w{number}" for number in range(500))
SOON = 20.0
"""Seconds until what a probe saw must show."""


@dataclass(frozen=True, slots=True)
class Cluster:
    a: Program
    b: Program
    sidecar: Program

    def stop(self) -> None:
        for program in (self.sidecar, self.a, self.b):
            program.stop()


def build(binary: Path, folder: Path, **more: str) -> Cluster:
    """Start both daemons and the sidecar, and wait until it knows node b's models."""
    a = start_ollama(binary, folder / "a")
    b = start_ollama(binary, folder / "b")
    try:
        seed(a, folder, HERE, "shared", "near")
        seed(b, folder, THERE, "shared", "far", embedder="far-embedder")
        seed(b, folder, ENDLESS, "endless")
        sidecar = start_sidecar(a, folder / "s", OLLAMA_WRAP_NODES=f"b={b.url}", **more)
    except BaseException:
        a.stop()
        b.stop()
        raise
    cluster = Cluster(a, b, sidecar)
    try:
        eventually(lambda: "far:latest" in names(cluster.sidecar, "/api/tags"))
    except BaseException:
        cluster.stop()
        raise
    return cluster


@pytest.fixture(scope="module")
def cluster(ollama_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = build(ollama_binary, tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


@pytest.fixture
def breakable(ollama_binary: Path, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of one's own, to be damaged; node b is asked first."""
    made = build(ollama_binary, tmp_path, OLLAMA_WRAP_ROUTING="remote-first")
    yield made
    made.stop()


@pytest.mark.parametrize(
    "target, body",
    [
        ("/api/generate", {"prompt": "hi"}),
        ("/api/chat", {"messages": [{"role": "user", "content": "hi"}], "stream": False}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ],
)
def test_model_that_only_the_node_has_is_answered_by_the_node(
    cluster: Cluster, target: str, body: dict[str, object]
) -> None:
    answer = post(cluster.sidecar, target, body | {"model": "far"})

    assert answer.status == 200
    assert answer.header(b"X-Ollama-Node") == b"b"
    assert said(answer) == THERE


def test_model_that_both_have_is_answered_by_the_local_daemon(cluster: Cluster) -> None:
    answer = post(cluster.sidecar, "/api/generate", {"model": "shared", "prompt": "hi"})

    assert answer.header(b"X-Ollama-Distributed") == b"true"
    assert said(answer) == HERE


def test_lists_name_the_models_of_both_with_their_digests(cluster: Cluster) -> None:
    tags = json.loads(get(cluster.sidecar, "/api/tags").body)["models"]
    ids = {model["id"] for model in json.loads(get(cluster.sidecar, "/v1/models").body)["data"]}

    theirs = {model["name"]: model["digest"] for model in listed(cluster.b, "/api/tags")}
    ours = {model["name"]: model["digest"] for model in listed(cluster.a, "/api/tags")}
    assert {model["name"]: model["digest"] for model in tags} == theirs | ours
    assert ids == set(theirs | ours)


def test_show_tells_of_a_model_that_only_the_node_has(cluster: Cluster) -> None:
    direct = json.loads(post(cluster.b, "/api/show", {"model": "far"}).body)

    through = post(cluster.sidecar, "/api/show", {"model": "far"})

    assert through.status == 200
    assert json.loads(through.body) == direct


def test_model_loaded_on_the_node_is_in_ps_until_it_is_stopped(cluster: Cluster) -> None:
    post(cluster.sidecar, "/api/generate", {"model": "far"})
    eventually(lambda: "far:latest" in names(cluster.sidecar, "/api/ps"))

    stopped = post(cluster.sidecar, "/api/generate", {"model": "far", "keep_alive": 0})

    assert json.loads(stopped.body)["done_reason"] == "unload"
    eventually(lambda: "far:latest" not in names(cluster.b, "/api/ps"))
    eventually(lambda: "far:latest" not in names(cluster.sidecar, "/api/ps"))


def test_model_that_nobody_has_gets_stock_s_own_404(cluster: Cluster) -> None:
    body = {"model": "nowhere", "prompt": "hi"}

    through = post(cluster.sidecar, "/api/generate", body)

    assert (through.status, through.body) == (404, b'{"error":"model \'nowhere\' not found"}')


def test_ollama_s_python_client_sees_one_server(cluster: Cluster) -> None:
    with ollama.Client(host=cluster.sidecar.url) as client:
        listed_models = {model.model for model in client.list().models}
        parts = client.chat("far", [{"role": "user", "content": "hi"}], stream=True)
        spoken = "".join(part.message.content or "" for part in parts)
        embedded = client.embed("far-embedder", ["hi", "you"]).embeddings
        near = client.generate("near", "hi").response

    assert {"near:latest", "far:latest", "far-embedder:latest"} <= listed_models
    assert spoken.strip() == THERE
    assert len(embedded) == 2
    assert near.strip() == HERE


def test_node_killed_before_its_first_byte_goes_unnoticed(breakable: Cluster) -> None:
    os.killpg(breakable.b.process.pid, signal.SIGSTOP)
    body = {"model": "shared", "prompt": "hi"}
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(post, breakable.sidecar, "/api/generate", body)
        time.sleep(0.5)
        breakable.b.kill()
        answer = waiting.result(PATIENCE)

    assert (answer.status, answer.clean) == (200, True)
    assert said(answer) == HERE
    assert answer.header(b"X-Ollama-Fallback") == b"true"


def test_node_killed_in_mid_stream_ends_in_an_error_and_a_broken_stream(
    breakable: Cluster,
) -> None:
    request = send("/api/generate", {"model": "endless", "prompt": "hi"})
    with socket.create_connection(breakable.sidecar.address, timeout=PATIENCE) as sock:
        sock.sendall(request.sent)
        line = Line(sock)
        assert line.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        line.until(b"\n")

        breakable.b.kill()
        rest = line.rest()

    assert b'\n{"error":"' in rest
    assert b'"done":true' not in rest
    assert not rest.endswith(b"0\r\n\r\n")


def test_model_of_a_node_that_is_away_is_not_called_unknown(breakable: Cluster) -> None:
    breakable.b.kill()

    answers = [
        post(breakable.sidecar, target, {"model": "far", "prompt": "hi"})
        for target in ("/api/generate", "/api/show")
    ]

    assert [answer.status for answer in answers] == [503, 503]
    assert all("far" in json.loads(answer.body)["error"] for answer in answers)


def post(program: Program, target: str, body: Mapping[str, object]) -> Answer:
    return converse(program.address, send(target, body)).answers[0]


def get(program: Program, target: str) -> Answer:
    return converse(program.address, ask("GET", target)).answers[0]


def listed(program: Program, target: str) -> list[dict[str, str]]:
    models: list[dict[str, str]] = json.loads(get(program, target).body)["models"]
    return models


def names(program: Program, target: str) -> set[str]:
    return {model["name"] for model in listed(program, target)}


def said(answer: Answer) -> str:
    """Return the words of a native or OpenAI answer, streamed or whole."""
    parts = []
    for row in answer.body.splitlines():
        item = json.loads(row)
        message = item.get("message") or item.get("choices", [{}])[0].get("message", {})
        parts.append(item.get("response") or message.get("content") or "")
    return "".join(parts).strip()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that a probe has to see first."""
    end = time.monotonic() + SOON
    while not holds():
        if time.monotonic() > end:
            pytest.fail("it did not come true in time")
        time.sleep(0.1)
