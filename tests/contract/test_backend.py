"""What every Backend promises, and what its questions look like on the wire."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ollama_wrap.backends import BACKENDS, Client
from ollama_wrap.backends.base import Backend
from ollama_wrap.backends.client import Question
from ollama_wrap.errors import (
    BadReply,
    ConnectFailed,
    StreamBroken,
    UpstreamError,
    UpstreamTimeout,
)
from ollama_wrap.nodes.node import Node, NodeKind, local_node
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.testing import RAW, FakeOllama

TLS = Path(__file__).parents[1] / "data/tls"
VERSION = b'{"version":"0.33.0"}'
LOOPBACK = "127.0.0.1"


def http(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"\r\n".join([b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields])
    return head + b"\r\n\r\n" + body


@dataclass
class Server:
    """Answers each path with bytes as they are; `None`: with nothing, and keeps the connection.

    `then_close`: the connection ends after each answer, though nothing announced it;
    `once`: a second request on a connection ends it without an answer.
    """

    replies: dict[bytes, bytes | None] = field(default_factory=dict)
    then_close: bool = False
    once: bool = False
    port: int = 0
    connections: int = 0
    asked: list[tuple[bytes, dict[bytes, bytes]]] = field(default_factory=list)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while await self.answer(reader, writer):
                if self.once:
                    await reader.readuntil(b"\r\n\r\n")
                    break
        writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")
        target = line.split()[1]
        self.asked.append((target, dict(one.split(b": ", 1) for one in lines)))
        reply = self.replies.get(target, http(b"404 page not found", status=b"404 Not Found"))
        if reply is None:
            await reader.read()
            return False
        writer.write(reply)
        await writer.drain()
        return reply != b"" and not self.then_close


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with await asyncio.start_server(made.talk, LOOPBACK, 0) as listening:
        made.port = listening.sockets[0].getsockname()[1]
        yield made


@pytest.fixture
async def secure() -> AsyncIterator[Server]:
    made = Server()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    async with await asyncio.start_server(made.talk, LOOPBACK, 0, ssl=context) as listening:
        made.port = listening.sockets[0].getsockname()[1]
        yield made


Connect = Callable[..., Client]


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=TLS / "cert.pem")


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    clients: list[Client] = []

    def made(
        node: Node,
        *addresses: str,
        tls: Callable[[], ssl.SSLContext] = trusting,
    ) -> Client:
        upstream = Upstream(node)
        upstream.addresses = addresses or (LOOPBACK,)
        clients.append(Client(upstream, tls))
        return clients[-1]

    yield made
    for client in clients:
        await client.close()


def node(port: int, **fields: object) -> Node:
    fixed = {"id": "r1", "scheme": "http", "host": "tower.example", "port": port}
    return Node(**{**fixed, **fields})  # type: ignore[arg-type]


def version(seconds: float = 5.0) -> Question:
    return Question("/api/version", 4096, seconds)


# ---------------------------------------------------------------- every backend


@pytest.fixture(params=sorted(BACKENDS))
def kind(request: pytest.FixtureRequest) -> NodeKind:
    return NodeKind(request.param)


QUESTIONS: Mapping[str, Callable[[Backend], object]] = {
    "probe": lambda backend: backend.probe(5.0, ping=True),
    "models": lambda backend: backend.models(5.0),
    "loaded": lambda backend: backend.loaded(5.0),
    "version": lambda backend: backend.version(5.0),
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_backend_answers_each_question_or_says_that_it_cannot(
    kind: NodeKind, question: str, connect: Connect
) -> None:
    async with FakeOllama(models=["tiny"]) as ollama:
        backend = BACKENDS[kind](connect(node(ollama.port, kind=kind, host=LOOPBACK)))

        asking: object = QUESTIONS[question](backend)

        if backend.able:
            assert await asking is not None  # type: ignore[misc]
        else:
            with pytest.raises(UpstreamError, match=f"kind={kind} cannot be asked"):
                await asking  # type: ignore[misc]


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("garbage", sorted(RAW))
async def test_garbage_on_the_wire_is_an_error_of_ours(
    kind: NodeKind, question: str, garbage: str, server: Server, connect: Connect
) -> None:
    backend = BACKENDS[kind](connect(node(server.port, kind=kind)))
    for path in (b"/api/version", b"/api/tags", b"/api/ps"):
        server.replies[path] = RAW[garbage].encode()

    with pytest.raises(UpstreamError):
        await QUESTIONS[question](backend)  # type: ignore[misc]


async def test_lists_of_an_ollama_are_what_it_has(connect: Connect) -> None:
    async with FakeOllama(models=["tiny", "other"]) as ollama:
        backend = BACKENDS[NodeKind.OLLAMA](connect(local_node("me", ollama.url, None)))

        models = await backend.models(5.0)

        assert sorted(model.name for model in models) == ["other:latest", "tiny:latest"]
        assert all(len(model.digest) == 64 and model.size > 0 for model in models)
        assert await backend.loaded(5.0) == ()


# ---------------------------------------------------------------- what is sent


async def test_question_goes_to_the_address_under_the_name_of_the_node(
    server: Server, connect: Connect
) -> None:
    server.replies[b"/ollama/api/version"] = http(VERSION)
    secret = (b"Authorization", b"Bearer key")
    client = connect(node(server.port, prefix="/ollama", headers=(secret,)))

    answer = await client.ask(version())

    assert (answer.status, answer.body, answer.address) == (200, VERSION, LOOPBACK)
    [(target, headers)] = server.asked
    assert target == b"/ollama/api/version"
    assert headers == {
        b"Host": b"tower.example:%d" % server.port,
        b"Accept": b"application/json",
        b"Accept-Encoding": b"identity",
        b"User-Agent": b"ollama-wrap",
        b"X-Ollama-Hop": b"1",
        b"Authorization": b"Bearer key",
    }


async def test_own_ollama_gets_no_hop_mark(server: Server, connect: Connect) -> None:
    local = local_node("me", f"http://{LOOPBACK}:{server.port}", None)

    await connect(local).ask(version())

    assert b"X-Ollama-Hop" not in server.asked[0][1]


async def test_headers_of_a_node_replace_ours(server: Server, connect: Connect) -> None:
    agent = (b"user-agent", b"somebody")

    await connect(node(server.port, headers=(agent,))).ask(version())

    assert server.asked[0][1][b"user-agent"] == b"somebody"
    assert b"User-Agent" not in server.asked[0][1]


async def test_cookies_are_not_kept(server: Server, connect: Connect) -> None:
    server.replies[b"/api/version"] = http(VERSION, b"Set-Cookie: a=b; Path=/")
    client = connect(node(server.port))

    await client.ask(version())
    await client.ask(version())

    assert [b"Cookie" in headers for _, headers in server.asked] == [False, False]


async def test_redirects_are_not_followed(server: Server, connect: Connect) -> None:
    server.replies[b"/api/version"] = http(b"", b"Location: /secret", status=b"302 Found")

    answer = await connect(node(server.port)).ask(version())

    assert answer.status == 302
    assert len(server.asked) == 1


async def test_proxies_of_the_environment_are_not_used(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    answer = await connect(node(server.port)).ask(version())

    assert answer.status == 404


# ---------------------------------------------------------------- what may come back


async def test_answer_may_be_as_long_as_its_cap_and_no_longer(
    server: Server, connect: Connect
) -> None:
    server.replies[b"/fits"] = http(b"x" * 100)
    server.replies[b"/longer"] = http(b"x" * 101)
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"64\r\n%b\r\n" % (
        b"x" * 100
    )
    server.replies[b"/endless"] = endless + b"1\r\nx\r\n"
    client = connect(node(server.port))

    assert len((await client.ask(Question("/fits", 100, 5.0))).body) == 100
    for path in ("/longer", "/endless"):
        with pytest.raises(BadReply, match="longer than 100 bytes"):
            await client.ask(Question(path, 100, 5.0))


async def test_answer_that_is_encoded_is_refused(server: Server, connect: Connect) -> None:
    server.replies[b"/api/version"] = http(b"\x1f\x8b", b"Content-Encoding: gzip")

    with pytest.raises(BadReply, match="encoded"):
        await connect(node(server.port)).ask(version())


async def test_answer_that_is_cut_is_an_error(server: Server, connect: Connect) -> None:
    server.replies[b"/api/version"] = http(VERSION)[:-1]
    server.then_close = True

    with pytest.raises(StreamBroken):
        await connect(node(server.port)).ask(version())


async def test_node_that_says_nothing_is_given_up_after_the_time_in_all(
    server: Server, connect: Connect
) -> None:
    server.replies[b"/api/version"] = None

    with pytest.raises(UpstreamTimeout, match=r"no answer within 0\.2 s") as caught:
        await connect(node(server.port)).ask(version(0.2))

    assert caught.value.sent


# ---------------------------------------------------------------- connections


async def test_connections_are_used_again(server: Server, connect: Connect) -> None:
    client = connect(node(server.port))

    for _ in range(3):
        await client.ask(version())

    assert server.connections == 1


async def test_connection_that_ended_while_idle_costs_nothing(
    server: Server, connect: Connect
) -> None:
    server.then_close = True
    client = connect(node(server.port))

    answers = [await client.ask(version()) for _ in range(20)]

    assert [answer.status for answer in answers] == [404] * 20


async def test_connection_that_ends_under_a_question_is_replaced(
    server: Server, connect: Connect
) -> None:
    server.once = True
    client = connect(node(server.port))

    answers = [await client.ask(version()) for _ in range(3)]

    assert [answer.status for answer in answers] == [404] * 3
    assert server.connections == 3


async def test_refused_connection_is_said_and_nothing_was_sent(connect: Connect) -> None:
    async with await asyncio.start_server(Server().talk, LOOPBACK, 0) as listening:
        port = listening.sockets[0].getsockname()[1]

    with pytest.raises(ConnectFailed) as caught:
        await connect(node(port)).ask(version())

    assert not caught.value.sent


async def test_next_address_is_asked_when_the_first_refuses(
    server: Server, connect: Connect
) -> None:
    client = connect(node(server.port), "::1", "127.0.0.2", LOOPBACK)

    answer = await client.ask(version())

    assert answer.address == LOOPBACK


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux drops what a full backlog cannot hold"
)
async def test_node_that_takes_no_connection_is_told_from_one_that_does_not_answer(
    connect: Connect,
) -> None:
    # A full backlog: the kernel drops what asks for more.
    listening = await asyncio.start_server(Server().talk, LOOPBACK, 0, start_serving=False)
    port = listening.sockets[0].getsockname()[1]
    listening.sockets[0]._sock.listen(0)  # type: ignore[attr-defined]
    _, waiting = await asyncio.open_connection(LOOPBACK, port)

    with pytest.raises(UpstreamTimeout) as caught:
        await connect(node(port)).ask(version(0.5))

    assert not caught.value.sent
    waiting.close()
    listening.close()


async def test_callers_that_leave_do_not_use_up_connections(
    server: Server, connect: Connect
) -> None:
    server.replies[b"/slow"] = None
    client = connect(node(server.port))

    for round_ in range(50):
        asking = [asyncio.ensure_future(client.ask(Question("/slow", 10, 5.0))) for _ in range(20)]
        await asyncio.sleep(0.001 * (round_ % 5))
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    answers = await asyncio.gather(*(client.ask(version()) for _ in range(100)))
    assert [answer.status for answer in answers] == [404] * 100


# ---------------------------------------------------------------- TLS


async def test_certificate_is_checked_against_the_name_of_the_node(
    secure: Server, connect: Connect
) -> None:
    secure.replies[b"/api/version"] = http(VERSION)

    answer = await connect(node(secure.port, scheme="https")).ask(version())

    assert answer.body == VERSION


async def test_certificate_of_another_name_is_refused(secure: Server, connect: Connect) -> None:
    other = node(secure.port, scheme="https", host="other.example")

    with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
        await connect(other).ask(version())

    assert secure.asked == []


async def test_certificate_of_an_unknown_authority_is_refused(
    secure: Server, connect: Connect
) -> None:
    client = connect(node(secure.port, scheme="https"), tls=ssl.create_default_context)

    with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
        await client.ask(version())


async def test_http_answer_on_an_https_port_is_an_error(server: Server, connect: Connect) -> None:
    with pytest.raises((ConnectFailed, StreamBroken, BadReply, UpstreamTimeout)):
        await connect(node(server.port, scheme="https")).ask(version(2.0))
