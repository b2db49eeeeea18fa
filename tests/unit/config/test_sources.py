import os
from pathlib import Path

import pytest

from ollama_wrap.config import Settings, rows, sources
from ollama_wrap.config.sources import Found, config_folder, passed_files, state_folder
from ollama_wrap.errors import ConfigError

TABLE = tuple(rows(Settings))
TTL = ("cache", "ttl")


def read(folder: Path, **environ: str) -> Found:
    found = sources.read(TABLE, {"OLLAMA_WRAP_CONFIG_DIR": str(folder), **environ}, None)
    del found.given["config_dir",]
    return found


def values(found: Found, path: tuple[str, ...]) -> list[object]:
    return [given.value for given in found.given.get(path, [])]


def test_sources_come_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text("OLLAMA_WRAP_CACHE_TTL=2")
    (tmp_path / "node.yaml").write_text("cache: {ttl: 3}")
    (tmp_path / "config.yaml").write_text("cache: {ttl: 4}")

    found = read(tmp_path, OLLAMA_WRAP_CACHE_TTL="1", OLLAMA_WRAP_ENV_FILE=str(tmp_path / "my.env"))

    assert values(found, TTL) == ["1", "2", 3, 4]
    assert [given.origin for given in found.given[TTL]] == [
        "OLLAMA_WRAP_CACHE_TTL",
        f"OLLAMA_WRAP_CACHE_TTL in {tmp_path}/my.env",
        "node.yaml: cache.ttl",
        "config.yaml: cache.ttl",
    ]


def test_folder_of_yaml_files_can_be_named_in_the_env_file(tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text(f"OLLAMA_WRAP_CONFIG_DIR={tmp_path}\n")
    (tmp_path / "node.yaml").write_text("node_id: x\nserver: {node_id: tower}\n")

    found = sources.read(TABLE, {}, tmp_path / "my.env")

    assert values(found, ("server", "node_id")) == ["tower"]
    assert found.warnings == ["node.yaml: node_id is not a setting; did you mean server.node_id?"]


def test_env_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text("OLLAMA_ADMIN_TOKEN='a$HOME${b}'\nEMPTY\n")

    found = sources.read(TABLE, {}, tmp_path / "my.env")

    assert values(found, ("admin_token",)) == ["a$HOME${b}"]


def test_env_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    found = read(tmp_path, OLLAMA_WRAP_ENV_FILE=str(tmp_path / "none.env"))

    assert len(found.problems) == 1
    assert "OLLAMA_WRAP_ENV_FILE" in found.problems[0]


def test_empty_variable_is_not_set(tmp_path: Path) -> None:
    found = read(tmp_path, OLLAMA_ADMIN_TOKEN="  ", OLLAMA_WRAP_CACHE_TTL="")

    assert found.given == {}


def test_secret_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame-sesame\n")

    found = read(tmp_path, OLLAMA_ADMIN_TOKEN_FILE=str(tmp_path / "token"))

    assert values(found, ("admin_token",)) == ["sesame-sesame"]
    assert found.warnings == []


def test_secret_that_is_set_beats_its_file(tmp_path: Path) -> None:
    found = read(tmp_path, OLLAMA_ADMIN_TOKEN="sesame", OLLAMA_ADMIN_TOKEN_FILE="nowhere")

    assert values(found, ("admin_token",)) == ["sesame"]
    assert found.warnings == ["OLLAMA_ADMIN_TOKEN_FILE is not read: OLLAMA_ADMIN_TOKEN is set"]


def test_secret_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    found = read(tmp_path, OLLAMA_ADMIN_TOKEN_FILE=str(tmp_path))

    assert found.problems[0].startswith("OLLAMA_ADMIN_TOKEN_FILE=")


def test_file_of_nodes_that_cannot_be_read_is_only_a_fault(tmp_path: Path) -> None:
    found = read(tmp_path, OLLAMA_WRAP_NODES_FILE=str(tmp_path / "none"))

    assert found.problems == []
    assert found.faults[0].startswith("OLLAMA_WRAP_NODES_FILE=")


def test_alias_that_differs_is_a_warning(tmp_path: Path) -> None:
    found = read(tmp_path, OLLAMA_LOCAL_ADDR="http://a:1", OLLAMA_API_URL="http://b:2")

    assert values(found, ("local", "address"))[0] == "http://a:1"
    assert found.warnings == ["OLLAMA_API_URL differs from OLLAMA_LOCAL_ADDR, which wins"]


def test_generic_name_that_differs_is_none(tmp_path: Path) -> None:
    found = read(tmp_path, OLLAMA_WRAP_NODE_ID="a", NODE_ID="b")

    assert [given.soft for given in found.given["server", "node_id"]] == [False, True]
    assert found.warnings == []


@pytest.mark.parametrize(
    "name,meant",
    [
        ("OLLAMA_WRAP_CACHE_TLL", "; did you mean OLLAMA_WRAP_CACHE_TTL?"),
        ("OLLAMA_WRAP_LISTENS", "; did you mean OLLAMA_WRAP_LISTEN?"),
        ("OLLAMA_WRAP_LOCAL_ADDR", "; did you mean OLLAMA_LOCAL_ADDR?"),
        ("OLLAMA_WRAP_XYZZY", ""),
    ],
)
def test_unknown_name_is_a_warning_with_the_likely_one(
    tmp_path: Path, name: str, meant: str
) -> None:
    found = read(tmp_path, **{name: "1"})

    assert found.warnings == [f"{name} is not a setting{meant}"]


def test_stocks_own_variables_are_left_alone(tmp_path: Path) -> None:
    found = read(tmp_path, OLLAMA_HOST="0.0.0.0", OLLAMA_KEEP_ALIVE="5m")

    assert (found.given, found.warnings) == ({}, [])


def test_nodes_in_yaml_may_be_a_list(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("nodes:\n- http://r1\n- {url: 'http://r2', slots: 4}\n")

    found = read(tmp_path)

    assert values(found, ("nodes", "text")) == [["http://r1", {"url": "http://r2", "slots": 4}]]


@pytest.mark.parametrize("content", ["- a\n- b\n", "cache: {ttl: 3", "cache: !!python/object:x {}"])
def test_yaml_that_cannot_be_read_is_a_problem(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)

    found = read(tmp_path)

    assert len(found.problems) == 1
    assert "config.yaml" in found.problems[0]


def test_yaml_may_be_empty_or_have_empty_keys(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("")
    (tmp_path / "config.yaml").write_text("cache: {ttl:}\n")

    found = read(tmp_path)

    assert (found.given, found.problems, found.warnings) == ({}, [], [])


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_state_folder_ends_in_the_port(platform: str) -> None:
    folder = state_folder({"HOME": "/h", "LOCALAPPDATA": "/h/local"}, 11434, platform)

    assert folder.parts[-2:] == ("ollama_wrap", "11434")


def test_folders_are_the_platforms() -> None:
    assert config_folder({"HOME": "/h"}, "linux") == Path("/h/.config/ollama_wrap")
    assert config_folder({"XDG_CONFIG_HOME": "/c"}, "linux") == Path("/c/ollama_wrap")
    assert state_folder({"HOME": "/h"}, 1, "linux") == Path("/h/.local/state/ollama_wrap/1")
    assert config_folder({"APPDATA": "/a"}, "win32") == Path("/a/ollama_wrap")
    assert config_folder({"HOME": "/h"}, "darwin") == Path(
        "/h/Library/Application Support/ollama_wrap"
    )


def test_program_that_is_started_inherits_no_setting_of_ours() -> None:
    given = {"PATH": "/bin", "NODE_ID": "x", "OLLAMA_WRAP_ANY": "y", "OLLAMA_ADMIN_TOKEN_FILE": "z"}

    assert sources.besides(tuple(rows(Settings)), given) == {"PATH": "/bin"}


# ---------------------------------------------------------------- files that were passed


@pytest.mark.parametrize(
    "given, numbers",
    [
        ({}, []),
        ({"LISTEN_PID": "own", "LISTEN_FDS": "1"}, [3]),
        ({"LISTEN_PID": "own", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c"}, [3, 4, 5]),
        ({"LISTEN_PID": "own", "LISTEN_FDS": "0"}, []),
        ({"LISTEN_PID": "own", "LISTEN_FDS": "-1"}, []),
        ({"LISTEN_PID": "own", "LISTEN_FDS": "many"}, []),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "2"}, []),
        ({"LISTEN_FDS": "2"}, []),
    ],
)
def test_files_are_taken_that_were_passed_to_this_process(
    given: dict[str, str], numbers: list[int]
) -> None:
    own = str(os.getpid())
    environ = {name: own if value == "own" else value for name, value in given.items()}

    assert list(passed_files(environ)) == numbers
    # A program that we start would take them for its own.
    assert environ == {}


# ---------------------------------------------------------------- files that are no YAML


@pytest.mark.parametrize(
    "text",
    [
        "admin_token: 'canary\nx: 1",
        "admin_token: *canary",
        "admin_token: !canary x",
        "admin_token: x: canary",
        "cache: {ttl: 5m\nadmin_token: @canary",
        "a: &canary 1\nb: &canary 2",
    ],
)
def test_line_that_is_no_yaml_is_named_and_not_repeated(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.yaml").write_text(text)

    with pytest.raises(ConfigError) as refused:
        Settings.load({"HOME": "/", "OLLAMA_WRAP_CONFIG_DIR": str(tmp_path)})

    (problem,) = refused.value.problems
    assert "node.yaml: cannot be read: line " in problem
    assert "canary" not in problem


@pytest.mark.parametrize("text", ["a: 2024-99-99", "a: " + "[" * 1500, "a: \x01"])
def test_file_that_breaks_its_reader_is_a_problem_like_any_other(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)

    with pytest.raises(ConfigError, match=r"config.yaml: cannot be read"):
        Settings.load({"HOME": "/", "OLLAMA_WRAP_CONFIG_DIR": str(tmp_path)})
