from pathlib import Path

from dotenv import dotenv_values

from ollama_wrap.cli.settings import env_example, settings_page
from ollama_wrap.config import Settings, rows


def test_copy_of_the_example_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(env_example())

    assert dotenv_values(tmp_path / ".env") == {}


def test_example_without_its_comment_signs_is_what_holds_anyway(tmp_path: Path) -> None:
    written = [line[1:] for line in env_example().splitlines() if line.startswith("#O")]
    (tmp_path / ".env").write_text("\n".join(written))
    environ = {"HOME": str(tmp_path), "OLLAMA_WRAP_CONFIG_DIR": str(tmp_path)}

    plain, copied = Settings.load(environ), Settings.load(environ, tmp_path / ".env")

    changed = {"warnings", "num_parallel"}  # names that are not used; slots are now declared
    assert copied.model_dump(exclude=changed) == plain.model_dump(exclude=changed)


def test_both_files_name_every_setting() -> None:
    example, page = env_example(), settings_page()

    for row in rows(Settings):
        assert f"\n#{row.name}=" in example
        assert f"`{row.name}`" in page
        assert row.sentence in page


def test_page_has_a_heading_for_each_group() -> None:
    assert "\n## The real Ollama of this host\n" in settings_page()
