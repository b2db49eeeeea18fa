import pytest

from ollama_wrap.api import hosts

MACHINE = frozenset({"tower", "tower.lan", "tower.local", "203.0.113.7", "fe80::1"})
LISTENERS = ("127.0.0.1:11434", "0.0.0.0:8080", "[::1]:9000", "192.168.1.5:7000")


@pytest.mark.parametrize(
    "value",
    [
        "", "localhost", "LOCALHOST:1234", "localhost:", "127.0.0.1:99", "127.9.9.9", "10.1.2.3",
        "192.168.1.5", "172.16.0.1", "0.0.0.0", "[::1]:80", "::1", "[::]:1", "[fd00::1]:1",
        "[::ffff:127.0.0.1]:1", "[::ffff:10.0.0.1]:1", "foo.localhost", "foo.local", ".local",
        "a.internal", "host.docker.internal", "tower", "TOWER:1", "203.0.113.7", "[fe80::1]:1",
    ],
)  # fmt: skip
def test_stock_accepts_names_and_addresses_of_here(value: str) -> None:
    assert hosts.stock_accepts(value, "Tower", MACHINE)


@pytest.mark.parametrize(
    "value",
    [
        "example.com", "8.8.8.8", "ollama", "my-box", "tower.lan", "localhost.", "local",
        "172.32.0.1", "169.254.1.1", "100.64.0.5", "127.1", "010.0.0.1", "[fe80::2]:1",
        # Go looks for the port's colon first: without one the brackets stay.
        "[::1]", "[fd00::1]", "[::1", "::1]:1", "a:b:c", "localhost:1:2",
    ],
)  # fmt: skip
def test_stock_refuses_every_other_host(value: str) -> None:
    assert not hosts.stock_accepts(value, "tower", MACHINE)


@pytest.mark.parametrize(
    "value",
    [
        "", "localhost:11434", "a.localhost", "127.0.0.1", "[::1]", "[::1]:5", "10.0.0.2:1",
        "TOWER", "tower.lan:1", "tower.local", "203.0.113.7", "[fe80::1]:4", "gate.example:443",
    ],
)  # fmt: skip
def test_our_routes_take_hosts_of_here_and_added_ones(value: str) -> None:
    assert hosts.ours_accept(value, MACHINE, {"gate.example"})


@pytest.mark.parametrize(
    "value",
    ["evil.example", "x.gate.example", "8.8.8.8", "other.local", "a.internal", "0.0.0.0",
     "localhost.evil.example"],
)  # fmt: skip
def test_our_routes_refuse_foreign_hosts(value: str) -> None:
    assert not hosts.ours_accept(value, MACHINE, {"gate.example"})


def test_star_switches_the_check_of_our_routes_off() -> None:
    assert hosts.ours_accept("evil.example", MACHINE, {"*"})


@pytest.mark.parametrize(
    "listener, loopback",
    [
        ("127.0.0.1:11434", True),
        ("127.0.0.1", True),
        ("[::1]:9000", True),
        ("::1", True),
        ("192.168.1.5:7000", False),
        ("192.168.1.5", False),
        # Bound to every address: a connection from here is no other.
        ("127.0.0.1:8080", False),
        ("0.0.0.0:8080", False),
        ("192.168.1.5:8080", False),
        ("[::ffff:127.0.0.1]:8080", False),
        # Not ours.
        ("", True),
        ("/run/some.sock", True),
        ("127.0.0.1:1", True),
        ("10.0.0.1:1", False),
    ],
)
def test_listener_is_told_by_what_was_bound(listener: str, loopback: bool) -> None:
    assert hosts.loopback_bound(listener, LISTENERS) is loopback


def test_names_are_listeners_too() -> None:
    listeners = ("localhost:1", "box.lan:2")

    assert hosts.loopback_bound("localhost:1", listeners)
    assert not hosts.loopback_bound("box.lan:2", listeners)


@pytest.mark.parametrize(
    "text, private",
    [
        ("10.0.0.1", True),
        ("fd00::1", True),
        ("::ffff:192.168.0.1", True),
        ("127.0.0.1", False),
        ("8.8.8.8", False),
        ("box", False),
    ],
)
def test_private_addresses_are_those_of_rfc_1918_and_fc00(text: str, private: bool) -> None:
    assert hosts.is_private(text) is private
