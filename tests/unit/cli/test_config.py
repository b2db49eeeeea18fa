from pathlib import Path

import pytest

from ollama_wrap.cli import main


@pytest.fixture
def env_file(tmp_path: Path) -> str:
    path = tmp_path / "my.env"
    path.write_text(
        f"OLLAMA_WRAP_CONFIG_DIR={tmp_path}\n"
        "OLLAMA_WRAP_CACHE_TTL=5m30s\n"
        "OLLAMA_ADMIN_TOKEN=hush-hush\n"
        "OLLAMA_WRAP_NODES=r1;header=X:hush\n"
        "OLLAMA_WRAP_TRUSTED_PROXIES=10.0.0.0/8\n"
    )
    return str(path)


def test_show_prints_what_is_in_force(env_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["config", "show", "--env-file", env_file])

    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert code == 0
    assert "* OLLAMA_WRAP_CACHE_TTL=330" in lines
    assert "* OLLAMA_WRAP_TRUSTED_PROXIES=10.0.0.0/8" in lines
    assert "  OLLAMA_WRAP_PROTECT=off" in lines
    assert "OLLAMA_ADMIN_TOKEN is short" in told.err


def test_show_hides_secrets(env_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "--env-file", env_file])

    told = capsys.readouterr().out
    assert "hush" not in told
    assert "* OLLAMA_ADMIN_TOKEN=(set)" in told
    assert "* OLLAMA_WRAP_NODES=(set)" in told
    assert "  OLLAMA_JWT_SECRET=\n" in told


@pytest.mark.parametrize("what,begin", [("env", "# Every setting"), ("docs", "# Settings")])
def test_files_are_written_to_standard_output(
    what: str, begin: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", what]) == 0
    assert capsys.readouterr().out.startswith(begin)
