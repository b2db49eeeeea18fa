import pytest

from ollama_wrap.cli.machine import Found, Place
from ollama_wrap.cli.move import move
from ollama_wrap.config import Listen

HERE = Listen("127.0.0.1", 11434)
THERE = Listen("127.0.0.1", 11436)


def lines(found: Found) -> list[str]:
    """What can be pasted."""
    told = move(found, HERE, THERE, "make run")
    return [line.strip() for line in told if line.startswith("    ")]


def test_service_of_systemd_is_moved_by_a_file_and_nothing_to_edit() -> None:
    drop_in = "/etc/systemd/system/ollama.service.d"

    assert lines(Found(Place.SYSTEMD, {})) == [
        f"sudo mkdir -p {drop_in}",
        (
            "printf '[Service]\\nEnvironment=\"OLLAMA_HOST=127.0.0.1:11436\"\\n' "
            f"| sudo tee {drop_in}/zz-ollama-wrap.conf"
        ),
        "sudo systemctl daemon-reload",
        "sudo systemctl restart ollama",
        "make run",
    ]


def test_process_is_started_again_with_the_settings_that_it_had() -> None:
    settings = {"OLLAMA_HOST": "127.0.0.1:11434", "OLLAMA_NUM_PARALLEL": "4"}

    assert lines(Found(Place.PROCESS, settings, 42)) == [
        "kill 42",
        "OLLAMA_HOST=127.0.0.1:11436 OLLAMA_NUM_PARALLEL=4 ollama serve",
        "export OLLAMA_NUM_PARALLEL=4",
        "make run",
    ]


def test_sidecar_listens_where_the_ollama_did_and_knows_its_origins() -> None:
    settings = {"OLLAMA_HOST": "0.0.0.0", "OLLAMA_ORIGINS": "http://a,http://b c"}

    assert lines(Found(Place.SYSTEMD, settings))[-3:] == [
        "export OLLAMA_WRAP_LISTEN=0.0.0.0:11434",
        "export OLLAMA_ORIGINS='http://a,http://b c'",
        "make run",
    ]


@pytest.mark.parametrize("said", [{}, {"OLLAMA_HOST": "https://x"}, {"OLLAMA_HOST": ":1"}, None])
def test_what_is_bound_counts_where_its_setting_says_nothing(said: dict[str, str] | None) -> None:
    assert "export OLLAMA_WRAP_LISTEN=0.0.0.0:11434" in lines(Found(Place.SYSTEMD, said, wide=True))


@pytest.mark.parametrize(
    "place, line",
    [
        (Place.DOCKER, "docker run ... -p 127.0.0.1:11436:11434 ... ollama/ollama"),
        (Place.MACOS, "launchctl setenv OLLAMA_HOST 127.0.0.1:11436"),
        (Place.WINDOWS, "setx OLLAMA_HOST 127.0.0.1:11436"),
    ],
)
def test_each_system_has_its_own_way(place: Place, line: str) -> None:
    assert line in lines(Found(place))


def test_settings_that_could_not_be_read_are_asked_for() -> None:
    told = move(Found(Place.DOCKER), HERE, THERE, "ollama-wrap serve")

    assert (
        told[-1]
        == "Give it the OLLAMA_ORIGINS and OLLAMA_NUM_PARALLEL that you gave Ollama, if any."
    )


def test_windows_gets_lines_of_its_own_shell() -> None:
    found = Found(Place.WINDOWS, {"OLLAMA_NUM_PARALLEL": "4"})

    assert "$env:OLLAMA_NUM_PARALLEL = '4'" in lines(found)
