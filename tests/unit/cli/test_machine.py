from collections.abc import Sequence
from pathlib import Path

import pytest

from ollama_wrap.cli.machine import Found, Machine, Place

PORT = 11434
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
LOOPBACK = (
    "   0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 777 1\n"
)
EVERYWHERE = LOOPBACK.replace("0100007F", "00000000")
OTHERS = LOOPBACK.replace("2CAA", "2CAB") + LOOPBACK.replace(" 0A ", " 01 ")


def machine(proc: Path, sockets: str = LOOPBACK, platform: str = "linux", **said: str) -> Machine:
    """One whose `/proc` is a folder, and whose programs say these things."""
    (proc / "net").mkdir()
    (proc / "net/tcp").write_text(HEAD + OTHERS + sockets)

    def answer(command: Sequence[str]) -> str:
        return said.get(command[-1] if command[0] == "launchctl" else command[0], "")

    return Machine(platform, proc, answer)


def process(proc: Path, pid: int, environ: str = "", command: str = "ollama\0serve\0") -> None:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "fd/3").symlink_to("socket:[777]")
    (folder / "environ").write_text(environ)
    (folder / "cmdline").write_text(command)


def test_process_of_ours_tells_its_settings(tmp_path: Path) -> None:
    process(tmp_path, 42, "HOME=/home/x\0OLLAMA_HOST=0.0.0.0\0OLLAMA_ORIGINS=\0")

    found = machine(tmp_path, EVERYWHERE).ollama_at(PORT)

    assert found == Found(Place.PROCESS, {"OLLAMA_HOST": "0.0.0.0"}, 42, wide=True)


def test_process_of_somebody_else_stays_unknown(tmp_path: Path) -> None:
    assert machine(tmp_path).ollama_at(PORT) == Found(Place.PROCESS, None, None, wide=False)


@pytest.mark.parametrize("visible", [True, False])
def test_service_of_systemd_tells_its_settings(tmp_path: Path, visible: bool) -> None:
    if visible:
        process(tmp_path, 42)
    unit = (
        "MainPID=42\nActiveState=active\n"
        'Environment="OLLAMA_ORIGINS=http://a b" PATH=/bin OLLAMA_NUM_PARALLEL=4\n'
    )

    found = machine(tmp_path, systemctl=unit).ollama_at(PORT)

    assert found.place is Place.SYSTEMD
    assert found.settings == {"OLLAMA_ORIGINS": "http://a b", "OLLAMA_NUM_PARALLEL": "4"}


@pytest.mark.parametrize(
    "unit",
    [
        "MainPID=0\nActiveState=inactive\nEnvironment=\n",
        "MainPID=41\nActiveState=active\nEnvironment=\n",
    ],
    ids=["stopped", "another process"],
)
def test_service_that_is_not_the_one_on_the_port_is_left_out(tmp_path: Path, unit: str) -> None:
    process(tmp_path, 42)

    found = machine(tmp_path, systemctl=unit).ollama_at(PORT)

    assert (found.place, found.pid) == (Place.PROCESS, 42)


def test_published_port_of_a_container_is_recognised(tmp_path: Path) -> None:
    words = ("/usr/bin/docker-proxy", "-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", "11434")
    process(tmp_path, 7, command="\0".join(words))

    assert machine(tmp_path).ollama_at(PORT) == Found(Place.DOCKER, wide=True)
    assert Machine("linux", tmp_path, lambda _: "").ollama_at(11999).place is Place.PROCESS


def test_mac_is_asked_through_launchctl(tmp_path: Path) -> None:
    found = machine(tmp_path, platform="darwin", OLLAMA_HOST="0.0.0.0:11434\n").ollama_at(PORT)

    assert found == Found(Place.MACOS, {"OLLAMA_HOST": "0.0.0.0:11434"})


def test_windows_is_not_asked_at_all(tmp_path: Path) -> None:
    assert machine(tmp_path, platform="win32").ollama_at(PORT) == Found(Place.WINDOWS)


def test_this_machine_knows_no_program_that_is_not_there() -> None:
    assert Machine().said(["no-such-program-here"]) == ""
