from pathlib import Path

import pytest

from ollama_wrap import __version__
from ollama_wrap.cli import COMMANDS, main
from ollama_wrap.cli.exits import Exit


def test_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ollama-wrap {__version__}\n"


@pytest.mark.parametrize("line", [["cook"], ["--cook"], ["config", "cook"]])
def test_line_that_cannot_be_understood_is_a_usage_error(line: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(line)

    assert ended.value.code == Exit.USAGE


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-h"])

    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)


@pytest.mark.parametrize("place", ["before", "after"])
def test_bad_settings_end_with_78_and_every_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    env_file = tmp_path / "bad.env"
    env_file.write_text("OLLAMA_WRAP_PROTECT=some\nOLLAMA_WRAP_LISTEN=https://x\n")
    option = ["--env-file", str(env_file)]

    code = main([*option, "config"] if place == "before" else ["config", *option])

    told = capsys.readouterr().err.splitlines()
    assert code == Exit.CONFIG
    assert len(told) == 2
    assert all(line.startswith("ollama-wrap: OLLAMA_WRAP_") for line in told)
