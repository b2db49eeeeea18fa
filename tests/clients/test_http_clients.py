"""Plain HTTP clients and their habits: curl, Java, Go, Python's own, and raw sockets."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import Fresh
from tests.clients.programs import HERE, THERE, Cluster, Fake, compiler, on_path

HOME = Path(__file__).parent
ASK = '{"model":"tiny","prompt":"hi"}'
WHOLE = '{"model":"tiny","prompt":"hi","stream":false}'
WORDS = [f" {word}" for word in HERE.split()]
# As the client of Java 17 sends it with the first request to a server it does not know.
H2C = (
    "Connection: Upgrade, HTTP2-Settings\r\n"
    "Content-Length: {length}\r\n"
    "Host: localhost\r\n"
    "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA\r\n"
    "Upgrade: h2c\r\n"
    "User-Agent: Java-http-client/17.0.15\r\n"
)


def curl(*options: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run curl; a refusal or a broken answer is the test's business."""
    command = [on_path("curl"), "-q", "-sS", "--max-time", "30", *options]
    return subprocess.run(command, input=given, capture_output=True, timeout=40, check=False)


@pytest.fixture
def blob(cluster: Cluster, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that was not uploaded yet."""
    path = tmp_path / "blob"
    path.write_bytes(f"{request.node.name} ".encode() * 50_000)
    return path


def url_of(cluster: Cluster, blob: Path) -> str:
    return f"{cluster.url}/api/blobs/sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}"


def uploaded(fake: Fake, blob: Path) -> bool:
    """Whether the last upload that a fake saw is this file, whole."""
    content = blob.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    seen = fake.saw(f"/api/blobs/sha256:{digest}")[-1]
    return (seen["body_size"], seen["body_sha256"]) == (len(content), digest)


def spoken(lines: list[bytes]) -> list[str]:
    return [json.loads(line)["response"] for line in lines]


# ---------------------------------------------------------------- curl


def test_curl_with_http_1_0_gets_each_line_when_it_is_spoken(cluster: Cluster) -> None:
    cluster.local.script(model="tiny", token_delay=0.3)
    command = [on_path("curl"), "-q", "-sS", "--http1.0", "-N", "-i", "-d", ASK]
    with subprocess.Popen(
        [*command, f"{cluster.url}/api/generate"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        head = list(iter(process.stdout.readline, b"\r\n"))
        first = process.stdout.readline()
        counts = cluster.local.counts()
        rest = process.stdout.readlines()

    assert head[0].startswith(b"HTTP/1.0 200")
    assert not any(line.lower().startswith(b"transfer-encoding") for line in head)
    assert (counts["running"], counts["generations_finished"]) == (1, 0)
    assert spoken([first, *rest]) == [*WORDS, ""]
    assert process.returncode == 0


def test_curl_with_http_1_0_notices_that_an_answer_broke(fresh: Fresh) -> None:
    cluster = fresh("local")
    cluster.local.dies("tiny", after=3)

    done = curl("--http1.0", "-N", "-d", ASK, f"{cluster.url}/api/generate")

    # An answer that is framed by its end can only break by a reset.
    assert (done.returncode, b"reset by peer" in done.stderr) == (56, True)
    assert spoken(done.stdout.splitlines()) == [" again"] * 3


def test_curl_keeps_a_connection_with_http_1_0_if_it_asks_to(cluster: Cluster) -> None:
    url = f"{cluster.url}/api/version"

    done = curl("--http1.0", "-v", "-H", "Connection: keep-alive", url, url)

    assert done.stdout.count(b'{"version":"0.33.0"') == 2
    assert b"Re-using existing connection" in done.stderr


def test_curl_that_waits_for_100_continue_is_asked_for_its_body(
    cluster: Cluster, blob: Path
) -> None:
    wait = ["-H", "Expect: 100-continue", "--expect100-timeout", "20"]

    done = curl("-v", *wait, "--data-binary", f"@{blob}", url_of(cluster, blob))

    assert b"< HTTP/1.1 100 Continue" in done.stderr
    assert b"< HTTP/1.1 201" in done.stderr
    assert uploaded(cluster.local, blob)


def test_curl_that_is_refused_is_not_asked_for_its_body(cluster: Cluster, blob: Path) -> None:
    wait = ["-H", "Expect: 100-continue", "--expect100-timeout", "20"]
    other = ["-H", "Host: elsewhere.example"]

    done = curl("-v", *wait, *other, "--data-binary", f"@{blob}", url_of(cluster, blob))

    assert b"< HTTP/1.1 403" in done.stderr
    assert b"100 Continue" not in done.stderr


def test_curl_uploads_in_chunks_what_has_no_known_length(cluster: Cluster, blob: Path) -> None:
    done = curl(*("-v", "-X", "POST", "-T", "-"), url_of(cluster, blob), given=blob.read_bytes())

    assert b"> Transfer-Encoding: chunked" in done.stderr
    assert b"< HTTP/1.1 201" in done.stderr
    assert uploaded(cluster.local, blob)


def test_curl_sees_a_break_in_mid_stream_as_an_error(fresh: Fresh) -> None:
    cluster = fresh("distributed")
    cluster.node.dies("far", after=3)

    done = curl("-N", "-d", ASK.replace("tiny", "far"), f"{cluster.url}/api/generate")

    lines = done.stdout.splitlines()
    assert spoken(lines[:3]) == [" again"] * 3
    assert json.loads(lines[3])["error"].startswith("stream interrupted")
    assert done.returncode != 0


# ---------------------------------------------------------------- Upgrade: h2c


@pytest.mark.parametrize("apart", [False, True], ids=["one packet", "body later"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_offer_of_http_2_is_declined_and_the_body_is_not_lost(
    cluster: Cluster, apart: bool, chunked: bool
) -> None:
    framed = f"{len(WHOLE):x}\r\n{WHOLE}\r\n0\r\n\r\n" if chunked else WHOLE
    head = f"POST /api/generate HTTP/1.1\r\n{H2C}\r\n"
    if chunked:
        head = head.replace("Content-Length: {length}", "Transfer-Encoding: chunked")
    head = head.format(length=len(WHOLE))
    with socket.create_connection(cluster.sidecar.address, timeout=10) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in [head, framed] if apart else [head + framed]:
            sock.sendall(piece.encode())
        first = answer(sock)
        sock.sendall(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        second = answer(sock)

    assert (first.version, first.status) == (11, 200)
    assert json.loads(first.read())["response"].strip() == HERE
    assert second.status == 200
    seen = cluster.local.saw("/api/generate")[-1]
    assert seen["body"] == WHOLE
    assert not {"upgrade", "http2-settings"} & names_of_headers(seen)


def answer(sock: socket.socket) -> http.client.HTTPResponse:
    """Read one whole answer; the connection stays open for the next."""
    response = http.client.HTTPResponse(sock)
    response.begin()
    body = response.read()
    response.read = lambda amount=None: body  # type: ignore[method-assign,assignment]
    return response


def names_of_headers(entry: dict[str, object]) -> set[str]:
    pairs = entry["headers"]
    assert isinstance(pairs, list)
    return {name.lower() for name, _ in pairs}


@pytest.mark.timeout(120)
def test_java_s_client_at_its_defaults_is_served(cluster: Cluster) -> None:
    printed = run(compiler("java"), "java/Client.java", cluster.url)

    digest = printed["blob"].rpartition(" ")[2]
    assert printed == {
        "lines": "HTTP_1_1 200 6",
        "whole": "HTTP_1_1 200 true",
        "missing": 'HTTP_1_1 404 {"error":"model \'nowhere\' not found"}',
        "blob": f"HTTP_1_1 201 {digest}",
        "version": "HTTP_1_1 200 true",
    }
    assert cluster.local.saw(f"/api/blobs/sha256:{digest}")[-1]["body_sha256"] == digest


# ---------------------------------------------------------------- Go


@pytest.fixture(scope="session")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> str:
    built = tmp_path_factory.mktemp("go") / "client"
    command = [compiler("go"), "build", "-o", str(built), "client.go"]
    more = {"GO111MODULE": "off", "GOFLAGS": "", "CGO_ENABLED": "0"}
    subprocess.run(command, cwd=HOME / "go", env=os.environ | more, check=True, timeout=280)
    return str(built)


@pytest.mark.timeout(300)
def test_go_s_client_is_served(cluster: Cluster, go_client: str) -> None:
    cluster.local.speaks_slowly("shared")

    printed = run(go_client, cluster.url)

    digest = printed["blob"].rpartition(" ")[2]
    assert printed == {
        "lines": "200 6 [chunked]",
        "missing": '404 {"error":"model \'nowhere\' not found"}',
        "blob": f"201 {digest}",
        "left": "200 <nil>",
        "head": "200 17",
    }
    assert cluster.local.saw(f"/api/blobs/sha256:{digest}")[-1]["body_sha256"] == digest
    cluster.local.is_free_again()


def run(*command: str) -> dict[str, str]:
    """Run a client program and return what it printed, by name."""
    done = subprocess.run(command, cwd=HOME, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    lines = [line.partition("=") for line in done.stdout.decode().splitlines() if line]
    return {name: came for name, _, came in lines}


# ---------------------------------------------------------------- Python's own


def test_connection_is_kept_over_answers_of_every_sort(cluster: Cluster) -> None:
    connection = http.client.HTTPConnection(*cluster.sidecar.address, timeout=10)
    statuses: list[int] = []
    ports: set[object] = set()
    asked = [
        ("GET", "/api/tags", None),
        ("POST", "/api/generate", ASK),
        ("HEAD", "/", None),
        ("POST", "/api/generate", WHOLE),
        ("POST", "/api/show", '{"model":"nowhere"}'),
        ("GET", "/nothing/here", None),
        ("DELETE", "/api/delete", "{"),
    ]

    for method, target, body in asked:
        connection.request(method, target, body)
        reply = connection.getresponse()
        statuses.append(reply.status)
        reply.read()
        ports.add(connection.sock.getsockname() if connection.sock else None)
    connection.close()

    assert statuses == [200, 200, 200, 200, 404, 404, 400]
    assert len(ports) == 1
    assert None not in ports


def test_body_in_small_chunks_arrives_whole(cluster: Cluster, blob: Path) -> None:
    def pieces() -> Iterator[bytes]:
        content = blob.read_bytes()
        for start in range(0, len(content), 5000):
            yield content[start : start + 5000]

    connection = http.client.HTTPConnection(*cluster.sidecar.address, timeout=10)
    path = url_of(cluster, blob).removeprefix(cluster.url)
    connection.request("POST", path, pieces(), encode_chunked=True)
    status = connection.getresponse().status
    connection.close()

    assert status == 201
    assert uploaded(cluster.local, blob)


def test_urllib_reads_lines_and_errors(cluster: Cluster) -> None:
    with urllib.request.urlopen(f"{cluster.url}/api/generate", ASK.encode()) as reply:
        lines = reply.readlines()
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"{cluster.url}/api/show", b'{"model":"nowhere"}')
    with raised.value as error:
        text = error.read()

    assert spoken(lines) == [*WORDS, ""]
    assert (error.code, text) == (404, b'{"error":"model \'nowhere:latest\' not found"}')


def test_model_of_the_other_node_is_answered_with_the_node_s_name(distributed: Cluster) -> None:
    body = WHOLE.replace("tiny", "far").encode()

    with urllib.request.urlopen(f"{distributed.url}/api/generate", body) as reply:
        said = json.load(reply)["response"].strip()

    assert said == THERE
    assert reply.headers["X-Ollama-Node"] == "b"
    assert reply.headers["X-Ollama-Route-Reason"] == "model-missing"
