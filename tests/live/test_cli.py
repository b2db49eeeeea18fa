"""The `ollama` command through the sidecar prints what it prints without it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.live.programs import Program
from tests.live.tiny_gguf import write_sentence_model

pytestmark = pytest.mark.live

COMMANDS = (
    ("--version",),
    ("list",),
    ("list", "tiny"),
    ("ls", "nothing"),
    ("show", "tiny"),
    ("show", "tiny", "--modelfile"),
    ("show", "embedder"),
    ("show", "nope"),
    ("run", "tiny", "hi"),
    ("run", "tiny", "hi", "--verbose"),
    ("run", "tiny", "hi", "--keepalive", "30m"),
    ("run", "embedder", "hi"),
    ("run", "127.0.0.1:1/a/nope", "hi"),
    ("ps",),
    ("stop", "tiny"),
    ("stop", "nope"),
    ("cp", "nope", "other"),
    ("rm", "nope"),
    ("pull", "http://127.0.0.1:1/library/x", "--insecure"),
    ("push", "nope"),
)
SESSION = (
    ("create", "mine", "-f", "Modelfile"),
    ("create", "mine", "-f", "Modelfile"),
    ("run", "mine", "hi"),
    ("list",),
    ("cp", "mine", "other"),
    ("list", "other"),
    ("rm", "mine", "other"),
    ("list",),
)

Printed = tuple[int, str, str]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_command_prints_the_same_through_the_sidecar(
    command: tuple[str, ...],
    ollama_binary: Path,
    daemons: tuple[Program, Program],
    sidecar: Program,
    tmp_path: Path,
) -> None:
    direct = run(ollama_binary, daemons[0], command, tmp_path)

    through = run(ollama_binary, sidecar, command, tmp_path)

    assert through == direct


def test_model_is_made_copied_used_and_removed_through_the_sidecar(
    ollama_binary: Path, daemons: tuple[Program, Program], sidecar: Program, tmp_path: Path
) -> None:
    write_sentence_model(tmp_path / "mine.gguf", "Made by the command line tool.")
    (tmp_path / "Modelfile").write_text("FROM ./mine.gguf\nTEMPLATE {{ .Prompt }}\n")

    direct = [run(ollama_binary, daemons[0], command, tmp_path) for command in SESSION]
    through = [run(ollama_binary, sidecar, command, tmp_path) for command in SESSION]

    assert through == direct
    assert "Made by the command line tool." in through[2][1]


def run(binary: Path, server: Program, command: tuple[str, ...], folder: Path) -> Printed:
    """Run a command against a server; what differs from run to run is blotted out."""
    told = {"OLLAMA_HOST": server.url, "HOME": str(folder), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [str(binary), *command],
        env=told,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=50,
        check=False,
    )
    return done.returncode, steady(done.stdout), last_line(done.stderr)


def steady(printed: bytes) -> str:
    text = re.sub(r"/\S*/(?:one|two)/models", "/models", printed.decode())
    # The digest of a model made from a file holds the path of the store.
    text = re.sub(r"\b[0-9a-f]{12}\b", "digest", text)
    text = re.sub(r"(?:\d+|About an?) (?:seconds|minutes?|hours?) (ago|from now)", r"\1", text)
    return text.replace("Less than a second ago", "ago")


def last_line(printed: bytes) -> str:
    """Return what is left on the terminal's last line: what came before it was progress."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", steady(printed))
    # A spinner is a single letter.
    lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 1]
    # Speeds are printed by --verbose, and nothing else ends in them.
    return re.sub(r"[\d.]+ tokens/s$", "", lines[-1]) if lines else ""
