"""Who already answers at an address: an Ollama, another sidecar, or something else.

Asked before an address is bound: macOS and Windows allow a second bind, which then
takes some of the calls and not others. Must not know what is done about it.
"""

from dataclasses import dataclass
from enum import Enum
from http.client import HTTPConnection, HTTPException, HTTPResponse

#: seconds for each answer
PATIENCE = 2.0
_MOST = 4096
_GREETING = b"Ollama is running"


class Kind(Enum):
    """What it is."""

    OLLAMA = 1
    SIDECAR = 2
    OTHER = 3


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What answers; `words` complete the sentence "there is …"."""

    kind: Kind
    words: str


def neighbour(host: str, port: int) -> Neighbour | None:
    """Who answers at an address of this machine; None: nobody, as far as can be told."""
    connection = HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.connect()
    except OSError:
        return None
    try:
        return _named(connection)
    except (OSError, HTTPException):
        return Neighbour(Kind.OTHER, "something that does not speak HTTP")
    finally:
        connection.close()


def _named(connection: HTTPConnection) -> Neighbour:
    answer, body = _get(connection, "/")
    # A sidecar says so on every answer, whatever its Ollama does.
    if (mode := answer.getheader("X-Ollama-Mode")) is not None:
        node = answer.getheader("X-Ollama-Node")
        named = f" ({node})" if node else ""
        return Neighbour(Kind.SIDECAR, f"another ollama-wrap{named}, in mode {mode}")
    if not body.startswith(_GREETING):
        server = answer.getheader("Server")
        named = f" ({server[:60]})" if server else ""
        return Neighbour(Kind.OTHER, f"a web server{named} that is no Ollama")
    _, body = _get(connection, "/api/version")
    version = body.decode("ascii", "replace").partition('"version":"')[2].partition('"')[0]
    return Neighbour(Kind.OLLAMA, f"Ollama {version}".strip())


def _get(connection: HTTPConnection, path: str) -> tuple[HTTPResponse, bytes]:
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer, answer.read(_MOST)
