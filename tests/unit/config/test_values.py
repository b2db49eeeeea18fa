import ipaddress
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from ollama_wrap.config.values import (
    Address,
    Listen,
    Networks,
    Origins,
    Seconds,
    Size,
    certificates,
    node_id_of,
    parse_listen,
    parse_listens,
    parse_networks,
    parse_node_id,
    parse_text,
)

seconds = TypeAdapter[float](Seconds)
size = TypeAdapter[int](Size)
address = TypeAdapter[str](Address)
origins = TypeAdapter[tuple[str, ...]](Origins)
networks = TypeAdapter[tuple[object, ...]](Networks)


@pytest.mark.parametrize(
    "written,meant",
    [
        ("10", 10),
        ("0.5", 0.5),
        ("10s", 10),
        (" 5M ", 300),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("2d", 172800),
        ("0", 0),
        (7, 7),
    ],
)
def test_duration_is_read_as_seconds(written: object, meant: float) -> None:
    assert seconds.validate_python(written) == pytest.approx(meant)


@pytest.mark.parametrize("written", ["", "soon", "10x", "s", "10s5", "-3", "nan", "inf", "1 h x"])
def test_what_is_no_duration_is_refused(written: str) -> None:
    with pytest.raises(ValidationError):
        seconds.validate_python(written)


@pytest.mark.parametrize(
    "written,meant",
    [
        ("1024", 1024),
        ("64KiB", 65536),
        ("32 MiB", 33554432),
        ("1.5GiB", 1610612736),
        ("10MB", 10_000_000),
        ("3b", 3),
        (5, 5),
    ],
)
def test_size_is_read_as_bytes(written: object, meant: int) -> None:
    assert size.validate_python(written) == meant


@pytest.mark.parametrize("written", ["", "big", "10M", "-1", "1e3", "MiB"])
def test_what_is_no_size_is_refused(written: str) -> None:
    with pytest.raises(ValidationError):
        size.validate_python(written)


@pytest.mark.parametrize(
    "written,host,port",
    [
        ("127.0.0.1:11434", "127.0.0.1", 11434),
        ("127.0.0.1", "127.0.0.1", 11434),
        ("box", "box", 11434),
        (":8080", "0.0.0.0", 8080),
        ("0.0.0.0", "0.0.0.0", 11434),
        ("", "127.0.0.1", 11434),
        ("http://box", "box", 80),
        ("HTTP://box:8080/", "box", 8080),
        ("http://box:8080/ollama", "box", 8080),
        ("[::1]:9000", "::1", 9000),
        ("[::1]", "::1", 11434),
        ("::1", "::1", 11434),
        ("::", "::", 11434),
        (' "127.0.0.1:1" ', "127.0.0.1", 1),
        ("localhost:0", "localhost", 0),
    ],
)
def test_listen_address_takes_the_forms_of_stock(written: str, host: str, port: int) -> None:
    assert parse_listen(written) == Listen(host, port)


@pytest.mark.parametrize(
    "written", ["box:port", "box:70000", "box:-1", "ftp://box", "[::1]9000", "[zz]:1", "1:2:3"]
)
def test_what_is_no_listen_address_is_refused(written: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  each has a sentence of its own
        parse_listen(written)


def test_https_listener_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="does not speak TLS"):
        parse_listen("https://box:443")


def test_listen_address_is_written_as_it_can_be_read() -> None:
    assert str(Listen("::1", 9000)) == "[::1]:9000"
    assert str(Listen("box", 80)) == "box:80"


@pytest.mark.parametrize(
    "listen,host,port,arrives",
    [
        (Listen("127.0.0.1", 1), "127.0.0.1", 1, True),
        (Listen("127.0.0.1", 1), "localhost", 1, True),
        (Listen("localhost", 1), "::1", 1, True),
        (Listen("0.0.0.0", 1), "127.0.0.9", 1, True),
        (Listen("::", 1), "localhost", 1, True),
        (Listen("127.0.0.1", 1), "127.0.0.1", 2, False),
        (Listen("127.0.0.1", 1), "10.0.0.1", 1, False),
        (Listen("0.0.0.0", 1), "10.0.0.1", 1, False),
        (Listen("127.0.0.1", 1), "::1", 1, False),
    ],
)
def test_listener_knows_what_would_arrive_there(
    listen: Listen, host: str, port: int, arrives: bool
) -> None:
    assert listen.reaches(host, port) is arrives


@pytest.mark.parametrize(
    "written,meant",
    [
        ("http://127.0.0.1:11436", "http://127.0.0.1:11436"),
        ("gpu", "http://gpu:11434"),
        ("gpu:8080", "http://gpu:8080"),
        ("http://gpu", "http://gpu:80"),
        ("https://gpu/ollama/", "https://gpu:443/ollama"),
        ("0.0.0.0:11436", "http://127.0.0.1:11436"),
        ("http://[::1]:5", "http://[::1]:5"),
    ],
)
def test_address_of_an_ollama_is_made_whole(written: str, meant: str) -> None:
    assert address.validate_python(written) == meant


@pytest.mark.parametrize(
    "written", ["ftp://gpu", "http://", "http://gpu:x", "http://u:p@gpu", "http://gpu?x=1", "[::1"]
)
def test_what_is_no_address_is_refused(written: str) -> None:
    with pytest.raises(ValidationError):
        address.validate_python(written)


@pytest.mark.parametrize("written", ["", "a b", "x" * 65, "all", "LOCAL", "é"])
def test_what_is_no_node_id_is_refused(written: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  two sentences
        parse_node_id(written)


@pytest.mark.parametrize(
    "hostname,node_id",
    [
        ("tower", "tower"),
        ("tower.lan", "tower.lan"),
        ("my box", "my-box"),
        ("", "node-"),
        ("local", "node-local"),
        ("x" * 99, "x" * 64),
    ],
)
def test_host_name_is_cut_to_an_id(hostname: str, node_id: str) -> None:
    assert node_id_of(hostname) == node_id
    assert parse_node_id(node_id) == node_id


def test_own_origins_stand_before_stocks() -> None:
    found = origins.validate_python("https://chat.example, http://localhost")

    assert found[:2] == ("https://chat.example", "http://localhost")
    assert found.count("http://localhost") == 1
    assert {"https://0.0.0.0:*", "vscode-webview://*"} <= set(found)


def test_networks_may_be_single_addresses() -> None:
    found = networks.validate_python("10.0.0.5, fd00::/8")

    assert found == (ipaddress.ip_network("10.0.0.5/32"), ipaddress.ip_network("fd00::/8"))


def test_list_from_yaml_is_a_list() -> None:
    assert parse_networks(["10.0.0.5"]) == parse_networks("10.0.0.5")
    assert parse_text([{"url": "http://r1"}]) == '[{"url": "http://r1"}]'


@pytest.mark.parametrize("read", [parse_networks, parse_listens])
@pytest.mark.parametrize("written", ["box.lan:x", 5, {"a": 1}])
def test_what_is_no_such_list_is_refused(read: Callable[[object], object], written: object) -> None:
    with pytest.raises(ValueError, match=r"write|port"):
        read(written)


def test_nowhere_to_listen_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one address"):
        parse_listens(" , ")


def test_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("no certificate")
    good = Path(__file__).parents[2] / "data/tls/cert.pem"

    assert certificates(good) == good
    with pytest.raises(ValueError, match="no such file"):
        certificates(tmp_path / "away")
    with pytest.raises(ValueError, match="no certificates"):
        certificates(tmp_path / "empty")
