import ipaddress
import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from ollama_wrap.observe import host
from ollama_wrap.observe.host import Host


def tower(*addresses: str) -> Host:
    return Host(hostname=lambda: "Tower.Lan.", addresses=lambda: frozenset(addresses))


@pytest.mark.parametrize(
    "name",
    [
        "tower",
        "TOWER.LAN",
        "tower.lan.",
        "tower.local",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "[::1]",
        "192.168.1.5",
        "::ffff:192.168.1.5",
        "fe80::1%eth0",
        "[FE80:0::1%25eth0]",
    ],
)
def test_names_and_addresses_of_this_machine_are_its_own(name: str) -> None:
    assert tower("192.168.1.5", "fe80::1").owns(name)


@pytest.mark.parametrize("name", ["", "other", "lan", "192.168.1.6", "fe80::2", "tower.evil", "1"])
def test_others_are_not(name: str) -> None:
    assert not tower("192.168.1.5", "fe80::1").owns(name)


def test_refresh_follows_a_change_and_outlives_a_failure() -> None:
    answers: list[frozenset[str] | OSError] = [
        frozenset({"10.0.0.1"}), OSError("no"), frozenset({"10.0.0.2"}),
    ]  # fmt: skip

    def addresses() -> frozenset[str]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    machine = Host(hostname=lambda: "tower", addresses=addresses)
    seen = [machine.owns("10.0.0.1")]
    for _ in range(2):
        machine.refresh()
        seen.append(machine.owns("10.0.0.1"))

    assert seen == [True, True, False]
    assert machine.owns("10.0.0.2")


def test_machine_without_a_name_owns_no_empty_one() -> None:
    assert Host(hostname=lambda: "", addresses=frozenset).names == frozenset()


def test_addresses_are_those_that_can_be_bound() -> None:
    addresses = host.interface_addresses()

    assert "127.0.0.1" in addresses
    for text in addresses:
        address = ipaddress.ip_address(text)
        if not address.is_link_local:
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            with socket.socket(family) as probe:
                probe.bind((text, 0))


@pytest.mark.skipif(sys.platform != "linux", reason="compares with Linux' own list")
def test_addresses_are_all_that_the_kernel_lists() -> None:
    listed = Path("/proc/net/fib_trie").read_text().splitlines()
    local = {before.split()[-1] for before, line in pairwise(listed) if "/32 host LOCAL" in line}

    found = {text for text in host.interface_addresses() if ":" not in text}

    assert found
    assert found <= local


def test_memory_grows_by_what_is_taken() -> None:
    before = host.memory()
    ballast = bytearray(os.urandom(1 << 20) * 64)

    after = host.memory()

    assert before is not None
    assert after is not None
    assert 60 << 20 < after - before < 80 << 20
    assert len(ballast) == 64 << 20


def test_open_files_are_counted() -> None:
    before = host.open_files()

    with socket.socket(), socket.socket():
        after = host.open_files()

    assert before is not None
    assert after == before + 2


def test_limit_of_files_is_the_process_s() -> None:
    program = "from ollama_wrap.observe import host; print(host.most_files())"

    shown = subprocess.run(
        ["sh", "-c", 'ulimit -n 123 && exec "$0" -c "$1"', sys.executable, program],
        capture_output=True, check=True, text=True,
    )  # fmt: skip

    assert shown.stdout == "123\n"


def test_files_are_allowed_up_to_what_is_wanted_and_to_the_hard_limit() -> None:
    program = (
        "import sys; from ollama_wrap.observe import host; host.allow_files(int(sys.argv[1]));"
        "print(host.most_files())"
    )

    def allowed(wanted: int, soft: int, hard: int) -> str:
        script = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$0" -c "$1" {wanted}'
        shown = subprocess.run(
            ["sh", "-c", script, sys.executable, program],
            capture_output=True, check=True, text=True,
        )  # fmt: skip
        return shown.stdout.strip()

    assert allowed(300, 100, 500) == "300"
    assert allowed(900, 100, 500) == "500"
    # What it has already stays.
    assert allowed(200, 400, 500) == "400"


@pytest.mark.parametrize(
    "lines, files, wanted",
    [
        ("0::/a/b", {"sys/fs/cgroup/a/b/memory.max": "1000"}, 1000),
        ("0::/a/b", {"sys/fs/cgroup/a/memory.max": "900\n",
                     "sys/fs/cgroup/a/b/memory.max": "max\n"}, 900),
        ("0::/", {"sys/fs/cgroup/memory.max": "800"}, 800),
        ("0::/a", {"sys/fs/cgroup/a/memory.max": "max"}, None),
        ("0::/a", {}, None),
        # Version 1; in a container the path is the host's.
        ("5:cpu,memory:/x", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "700"}, 700),
        ("5:memory:/far/away", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "600"}, 600),
        ("5:memory:/", {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("4:cpu:/x", {"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "700"}, None),
        ("nonsense", {"sys/fs/cgroup/memory.max": "500"}, None),
        (None, {"sys/fs/cgroup/memory.max": "500"}, None),
    ],
)  # fmt: skip
def test_memory_allowed_is_the_least_of_our_control_groups(
    tmp_path: Path, lines: str | None, files: dict[str, str], wanted: int | None
) -> None:
    if lines is not None:
        files = files | {"proc/self/cgroup": lines + "\n1:name=systemd:/x\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert host.memory_allowed(tmp_path) == wanted
