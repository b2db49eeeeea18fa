import ssl

import pytest

from ollama_wrap.backends.client import Client, Question, host_header
from ollama_wrap.errors import ConnectFailed
from ollama_wrap.nodes.node import Node
from ollama_wrap.nodes.upstream import Upstream


@pytest.mark.parametrize(
    "scheme, host, port, header",
    [
        ("http", "tower.lan", 11434, b"tower.lan:11434"),
        ("http", "tower.lan", 80, b"tower.lan"),
        ("https", "tower.lan", 443, b"tower.lan"),
        ("https", "tower.lan", 80, b"tower.lan:80"),
        ("http", "fd00::7", 11434, b"[fd00::7]:11434"),
    ],
)
def test_host_is_the_name_of_the_node_as_clients_write_it(
    scheme: str, host: str, port: int, header: bytes
) -> None:
    assert host_header(Node("r1", scheme, host, port)) == header


async def test_node_without_addresses_cannot_be_asked() -> None:
    client = Client(Upstream(Node("r1", "http", "tower.lan", 11434)), ssl.create_default_context)

    with pytest.raises(ConnectFailed, match=r"tower\.lan does not resolve"):
        await client.ask(Question("/api/version", 4096, 1.0))

    await client.close()


async def test_certificates_are_read_only_for_https() -> None:
    made: list[str] = []

    def tls() -> ssl.SSLContext:
        made.append("made")
        return ssl.create_default_context()

    plain = Client(Upstream(Node("r1", "http", "tower.lan", 11434)), tls)
    assert made == []
    secure = Client(Upstream(Node("r1", "https", "tower.lan", 443)), tls)
    assert made == ["made"]

    await plain.close()
    await secure.close()
