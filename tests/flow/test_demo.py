"""The demo as a user starts it: it checks itself, and leaves nothing behind."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "ollama_wrap", "demo"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose settings would break the demo if it obeyed them."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    hostile = {"OLLAMA_WRAP_LISTEN": "192.0.2.1:1", "OLLAMA_STANDALONE": "true", "LOG_LEVEL": "x"}
    yield {**os.environ, **hostile, "TMPDIR": str(folder)}
    assert list(folder.iterdir()) == []


def listening(told: str) -> list[str]:
    return re.findall(r"^  \w+: port (\d+)", told, re.MULTILINE)


def test_demo_tells_its_story_and_ends_by_itself(place: dict[str, str]) -> None:
    done = subprocess.run(
        [*DEMO, "--once"], env=place, capture_output=True, check=False, text=True, timeout=50
    )

    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "X-Ollama-Route-Reason: model-missing",
        "X-Ollama-Route-Reason: busy",
        "X-Ollama-Attempts: tower:",
        '{"error":"stream interrupted',
        "X-Ollama-Cached-Response: true",
        "/api/distributed/nodes",
    ):
        assert line in done.stdout
    assert len(listening(done.stdout)) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_interrupted_ends_what_it_started(
    place: dict[str, str], number: signal.Signals
) -> None:
    with subprocess.Popen(
        DEMO, env=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        told = ""
        while "sidecar: port" not in told:
            told += demo.stdout.readline()

        demo.send_signal(number)
        told += demo.stdout.read()
        code = demo.wait(20)

    assert code == 0
    assert "Traceback" not in told
    for port in listening(told):
        assert not answers(int(port))


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
