"""Exchanges over a scripted ASGI server."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from ollama_wrap import tasks
from ollama_wrap.api.asgi import Application
from ollama_wrap.call import Call
from ollama_wrap.errors import NoUpstream, StreamBroken
from ollama_wrap.reply import Reply
from tests.fakes.bodies import Stream
from tests.fakes.clock import settle
from tests.unit.api.line import CHUNKED, NDJSON, Line, node_says

LINE = b'{"done":false}\n'
LAST = b'{"done":true}\n'
CHAT = b'{"model":"m","messages":[{}]}'
MIB = 1024 * 1024
Message = MutableMapping[str, Any]


class Server:
    """Plays the ASGI server: gives what `say` puts in, takes answers while `taking` is set."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.own: list[str] = []
        self.sent: list[Message] = []
        self.taking = asyncio.Event()
        self.taking.set()
        self.send_fails = False
        self.asked_for = 0
        self._coming: asyncio.Queue[Message] = asyncio.Queue()
        self.done: asyncio.Task[None] | None = None

    def begin(
        self, method: str = "POST", target: str = "/api/chat", *fields: tuple[str, str], **more: Any
    ) -> "Server":
        path, _, query = target.partition("?")
        headers = [("host", "localhost:11434"), *fields]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 11434),
            **more,
        }
        app = Application(self._ours, self.line.edge)
        self.done = tasks.start(app(scope, self._receive, self._send), "a request")
        return self

    def say(self, body: bytes, *, more: bool = False) -> None:
        self._coming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def disconnect(self) -> None:
        self._coming.put_nowait({"type": "http.disconnect"})

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def whole(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False

    async def ended(self) -> None:
        assert self.done is not None
        async with asyncio.timeout(2):
            await self.done

    async def _receive(self) -> Message:
        self.asked_for += 1
        return await self._coming.get()

    async def _send(self, message: Message) -> None:
        await self.taking.wait()
        if self.send_fails:
            raise OSError("the client has left")
        self.sent.append(message)

    async def _ours(self, scope: Any, receive: Any, send: Any) -> None:
        self.own.append(scope.get("path", scope["type"]))


def sized(body: bytes) -> tuple[str, str]:
    return "content-length", str(len(body))


# ---------------------------------------------------------------- in


async def test_request_is_answered_whole() -> None:
    line = Line(node_says(b"[]", (b"X-A", b"1")))
    server = Server(line).begin("POST", "/api/chat?a=1", sized(CHAT))

    server.say(CHAT)
    await server.ended()

    (call,) = line.asked.calls
    assert (call.target, call.body, call.model, call.length) == (
        b"/api/chat?a=1", CHAT, "m", len(CHAT),
    )  # fmt: skip
    start = server.sent[0]
    assert (start["status"], server.body, server.whole) == (200, b"[]", True)
    assert (b"x-a", b"1") in start["headers"]
    assert all(name == name.lower() for name, _ in start["headers"])


@pytest.mark.parametrize("target", ["/health", "/api/distributed/status", "/admin/mode"])
async def test_path_of_ours_goes_on_to_our_own_routes(target: str) -> None:
    server = Server(Line(NoUpstream(""))).begin("GET", target)

    await server.ended()

    assert (server.own, server.line.asked.calls) == ([target], [])


async def test_what_is_no_request_goes_on_to_starlette() -> None:
    server = Server(Line(NoUpstream(""))).begin(type="lifespan")

    await server.ended()

    assert server.own == ["/api/chat"]


async def test_raw_path_decides_whose_it_is() -> None:
    server = Server(Line(node_says(b""))).begin("GET", "/admin/mode", raw_path=b"/%61dmin/mode")

    server.say(b"")
    await server.ended()

    assert server.own == []
    assert server.line.asked.calls[0].target == b"/%61dmin/mode"


async def test_server_without_raw_paths_or_addresses_will_do() -> None:
    server = Server(Line(node_says(b"[]"))).begin(raw_path=None, client=None, server=None)

    server.say(CHAT)
    await server.ended()

    assert server.sent[0]["status"] == 200
    assert server.line.asked.calls[0].client == ""


@pytest.mark.parametrize(
    "fields, version, length",
    [
        ([sized(CHAT)], "1.1", len(CHAT)),
        ([("transfer-encoding", "chunked")], "1.1", -1),
        ([], "2", -1),
        ([sized(CHAT)], "2", len(CHAT)),
    ],
)
async def test_body_is_read_whole_however_it_is_announced(
    fields: list[tuple[str, str]], version: str, length: int
) -> None:
    server = Server(Line(node_says(b"[]"))).begin(
        "POST", "/api/chat", *fields, http_version=version
    )

    server.say(CHAT[:5], more=True)
    server.say(CHAT[5:])
    await server.ended()

    (call,) = server.line.asked.calls
    assert (call.body, call.length) == (CHAT, length)


async def test_old_client_is_seen_as_one() -> None:
    server = Server(Line(node_says(b"[]"))).begin(http_version="1.0")

    await server.ended()

    assert server.line.asked.calls[0].http11 is False


async def test_body_longer_than_the_limit_is_read_from_its_beginning() -> None:
    parts: list[bytes] = []

    async def reads(call: Call) -> Reply:
        assert (call.body, call.repeatable) == (None, False)
        assert call.rest is not None
        while part := await call.rest.read():
            parts.append(part)
        return node_says(b"[]")

    line = Line(reads)
    body = b'{"model":"m","prompt":"' + b"x" * 33 * MIB + b'"}'
    server = Server(line).begin("POST", "/api/generate", sized(body))

    for start in range(0, len(body), MIB):
        server.say(body[start : start + MIB], more=start + MIB < len(body))
    await server.ended()

    assert b"".join(parts) == body
    assert (server.sent[0]["status"], line.asked.calls[0].model) == (200, "m")


async def test_body_is_asked_for_at_the_pace_at_which_it_is_read() -> None:
    free = asyncio.Event()

    async def waits(call: Call) -> Reply:
        await free.wait()
        assert call.rest is not None
        while await call.rest.read():
            pass
        return node_says(b"")

    target = f"/api/blobs/sha256:{'0' * 64}"
    server = Server(Line(waits)).begin("POST", target, ("transfer-encoding", "chunked"))
    for _ in range(50):
        server.say(b"x" * 1000, more=True)
    server.say(b"")

    await settle()
    assert server.asked_for <= 3
    free.set()
    await server.ended()

    assert server.asked_for >= 51


# ---------------------------------------------------------------- out


async def test_stream_passes_piece_by_piece() -> None:
    body = Stream()
    server = Server(Line(node_says(body, NDJSON, CHUNKED))).begin("POST", "/api/chat", sized(CHAT))
    server.say(CHAT)
    await settle()
    assert [message["type"] for message in server.sent] == ["http.response.start"]

    body.say(LINE)
    await settle()
    assert server.body == LINE
    body.say(LAST)
    body.end()
    await server.ended()

    assert (server.body, server.whole) == (LINE + LAST, True)
    names = {name for name, _ in server.sent[0]["headers"]}
    assert b"transfer-encoding" not in names


async def test_broken_stream_is_never_ended_as_if_it_were_whole() -> None:
    body = Stream()
    server = Server(Line(node_says(body, NDJSON, CHUNKED))).begin("POST", "/api/chat", sized(CHAT))
    server.say(CHAT)
    await settle()
    body.say(LINE)

    body.end(StreamBroken("reset"))
    await server.ended()

    assert server.body.startswith(LINE + b'{"error":')
    assert not server.whole


async def test_server_that_cannot_take_more_holds_the_node_back() -> None:
    body = Stream()
    server = Server(Line(node_says(body, NDJSON, CHUNKED))).begin("POST", "/api/chat", sized(CHAT))
    server.say(CHAT)
    await settle()
    server.taking.clear()

    body.say(b"x" * MIB)
    assert not body.paused
    body.say(b"x" * 10)
    assert body.paused
    server.taking.set()
    await settle()
    assert not body.paused

    body.end()
    await server.ended()
    assert len(server.body) == MIB + 10


# ---------------------------------------------------------------- clients that leave


async def test_client_that_leaves_before_the_first_byte_ends_its_call() -> None:
    async def waits(_: Call) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    line = Line(waits)
    server = Server(line).begin("POST", "/api/chat", sized(CHAT))
    server.say(CHAT)
    await settle()
    assert len(line.asked.calls) == 1

    server.disconnect()
    await server.ended()
    await settle()

    assert (server.sent, len(line.pipeline.running)) == ([], 0)
    assert [one.status for one in line.ended] == [499]
    assert tasks.running() == frozenset()


async def test_client_that_leaves_in_mid_stream_closes_the_body() -> None:
    body = Stream()
    line = Line(node_says(body, NDJSON, CHUNKED))
    server = Server(line).begin("POST", "/api/chat", sized(CHAT))
    server.say(CHAT)
    await settle()
    body.say(LINE)

    server.disconnect()
    await server.ended()
    await settle()

    assert (body.closed, [one.status for one in line.ended]) == (True, [499])


async def test_client_that_leaves_in_mid_body_ends_its_call() -> None:
    line = Line(node_says(b"[]"))
    server = Server(line).begin("POST", "/api/chat", ("content-length", "100"))
    server.say(b"{", more=True)
    await settle()

    server.disconnect()
    await server.ended()
    await settle()

    assert ([one.status for one in line.ended], line.asked.calls) == ([499], [])


async def test_send_that_fails_is_a_client_that_left() -> None:
    body = Stream()
    line = Line(node_says(body, NDJSON, CHUNKED))
    server = Server(line).begin("POST", "/api/chat", sized(CHAT))
    server.say(CHAT)
    await settle()
    server.send_fails = True

    body.say(LINE)
    await server.ended()
    await settle()

    assert (body.closed, [one.status for one in line.ended]) == (True, [499])
    body.say(LINE)
    assert len(server.sent) == 1
