import io

import pytest

from ollama_wrap.cli.question import ask_local
from ollama_wrap.config import Settings

DEFAULT = "http://127.0.0.1:11436"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def asked(*typed: str) -> tuple[str, str]:
    told = Terminal()
    settings = ask_local(Settings(), Terminal("".join(f"{line}\n" for line in typed)), told)
    return settings.local.address, told.getvalue()


def test_typed_address_is_taken() -> None:
    address, told = asked("10.0.0.5:11500")

    assert address == "http://10.0.0.5:11500"
    assert f"[{DEFAULT}]" in told


@pytest.mark.parametrize("typed", [[""], []])
def test_empty_line_and_end_of_input_mean_the_default(typed: list[str]) -> None:
    assert asked(*typed)[0] == DEFAULT


def test_what_cannot_be_used_is_said_and_asked_again() -> None:
    address, told = asked("ftp://x", "localhost:11434", "localhost:11500")

    assert address == "http://localhost:11500"
    assert "write where the real Ollama listens" in told
    assert "the sidecar itself listens there" in told


@pytest.mark.parametrize("stdin", [io.StringIO("10.0.0.5:1\n"), None])
def test_nobody_at_a_terminal_is_asked_nothing(stdin: io.StringIO | None) -> None:
    told = io.StringIO()

    settings = ask_local(Settings(), stdin, told)

    assert settings.local.address == DEFAULT
    assert told.getvalue() == ""
