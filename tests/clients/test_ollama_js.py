"""Ollama's JavaScript client sees one Ollama, whatever is behind the sidecar."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Fresh
from tests.clients.programs import HERE, THERE, Cluster, missing, on_path

HOME = Path(__file__).parent
WORDS = [f" {word}" for word in HERE.split()]


@pytest.fixture(scope="module")
def node() -> str:
    found = on_path("node")
    if not (HOME / "node_modules" / "ollama").is_dir():
        missing("the package `ollama` from npm (run: npm install --prefix tests/clients)")
    return found


def run(node: str, cluster: Cluster, task: str, model: str = "tiny") -> dict[str, Any]:
    """Return what the program in js/ollama.mjs printed: a value, or an error and what came."""
    command = [node, "js/ollama.mjs", cluster.url, task, model]
    done = subprocess.run(command, cwd=HOME, capture_output=True, timeout=40, check=False)
    assert done.returncode == 0, done.stderr.decode()
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


@pytest.mark.parametrize(
    "task, expected",
    [
        ("version", "0.33.0"),
        ("generate", f" {HERE}"),
        ("generateStream", [*WORDS, ""]),
        ("chat", f" {HERE}"),
        ("chatStream", [*WORDS, ""]),
        ("show", "llama"),
        ("lifecycle", ["success"] * 4),
    ],
)
def test_answer_is_what_the_local_ollama_says(
    node: str, cluster: Cluster, task: str, expected: object
) -> None:
    assert run(node, cluster, task) == {"value": expected}


def test_embed_gives_a_vector_for_each_text(node: str, cluster: Cluster) -> None:
    vectors = run(node, cluster, "embed")["value"]

    assert [len(vector) for vector in vectors] == [4, 4]


def test_list_names_the_models_of_every_node_that_is_known(node: str, cluster: Cluster) -> None:
    listed = set(run(node, cluster, "list")["value"])

    assert {"tiny:latest", "shared:latest"} <= listed
    assert ("far:latest" in listed) == cluster.distributed


def test_model_that_was_used_is_in_ps(node: str, cluster: Cluster) -> None:
    run(node, cluster, "generate")

    assert "tiny:latest" in run(node, cluster, "ps")["value"]


def test_pull_reports_its_progress_to_the_end(node: str, cluster: Cluster) -> None:
    statuses = run(node, cluster, "pull", "tiny")["value"]

    assert (statuses[0], statuses[-1]) == ("pulling manifest", "success")


@pytest.mark.parametrize("task", ["generate", "generateStream", "show", "embed"])
def test_model_that_nobody_has_is_an_error_in_stock_s_own_words(
    node: str, cluster: Cluster, task: str
) -> None:
    error = run(node, cluster, task, "nowhere")["error"]

    assert (error["name"], error["status"]) == ("ResponseError", 404)
    assert error["message"].startswith(("model 'nowhere", 'model "nowhere'))


def test_client_that_aborts_frees_the_model(node: str, cluster: Cluster) -> None:
    cluster.local.speaks_slowly("tiny")

    printed = run(node, cluster, "abort")

    assert printed["error"]["name"] == "AbortError"
    assert printed["seen"] == [" again"]
    cluster.local.is_free_again()


@pytest.mark.parametrize("task", ["generate", "chat"])
def test_model_of_the_other_node_is_used_like_a_local_one(
    node: str, distributed: Cluster, task: str
) -> None:
    assert run(node, distributed, task, "far") == {"value": f" {THERE}"}


def test_node_that_dies_in_mid_stream_is_an_error(node: str, fresh: Fresh) -> None:
    cluster = fresh("distributed")
    cluster.node.dies("far", after=3)

    printed = run(node, cluster, "generateStream", "far")

    assert printed["seen"] == [" again"] * 3
    assert "stream interrupted" in printed["error"]["message"]


def test_local_ollama_that_dies_in_mid_stream_is_an_error(node: str, fresh: Fresh) -> None:
    cluster = fresh("local")
    cluster.local.dies("tiny", after=3)

    printed = run(node, cluster, "generateStream")

    assert printed["seen"] == [" again"] * 3
    assert printed["error"]["message"] == "terminated"
