"""From an Exchange to its answer: whose path it is, what is written, how it ends."""

import asyncio

import pytest

from ollama_wrap import tasks
from ollama_wrap.api.routes import PATHS
from ollama_wrap.call import Call, Mode
from ollama_wrap.errors import AttemptsFailed, Forbidden, NoUpstream, StreamBroken
from ollama_wrap.reply import Reply
from ollama_wrap.wire.base import Framing
from tests.fakes.bodies import Stream
from tests.fakes.clock import settle
from tests.fakes.exchange import FakeExchange
from tests.unit.api.line import CHUNKED, NDJSON, SITE, Line, node_says

LINE = b'{"done":false}\n'
LAST = b'{"done":true}\n'


def chat(*fields: tuple[str, str], path: str = "/api/chat") -> FakeExchange:
    return FakeExchange("POST", path, *fields, body=b'{"model":"m","messages":[{}]}')


# ---------------------------------------------------------------- whose path it is


def ours(path: str) -> bool:
    return Line(NoUpstream("")).edge.ours(path)


@pytest.mark.parametrize(
    "path",
    [
        *sorted(PATHS),
        "/api/distributed/models/m/replicas",
        "/api/distributed/models/hf.co/a/b:q4/replicas",
        "/api/distributed/requests/12",
    ],
)
async def test_path_of_ours_is_left_to_our_own_routes(path: str) -> None:
    line = Line(NoUpstream(""))

    assert line.edge.take(FakeExchange("GET", f"{path}?x=1").real) is False
    assert tasks.running() == frozenset()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin/mode",
        "/v1/%2e%2e/admin/mode",
        "/%61dmin/mode",
        "/v1/..;/admin/mode",
        "//admin/mode",
        "/admin/mode/",
        "/admin%2fmode",
        "/admin\\mode",
        "/ADMIN/mode",
        "/admin/mode%00",
        "/ollama/admin/mode",
        "/api/distributed/requests/../status",
        "/api/distributed/requests/a%2fb",
        "/api/distributed/requests/\xff",
        "/api/distributed/models/../status",
        "/api/distributed/models/./m/replicas",
        "/api/distributed/models/a%2fb/replicas",
        "/api/distributed/models/%00/replicas",
        "/api/distributed/models/\xe9/replicas",
        "/api/distributed/models//m/replicas",
        "/api/distributed/models/..",
        "/",
        "/api/tags",
        "*",
    ],
)
async def test_s12_path_that_is_not_clean_is_never_ours(path: str) -> None:
    assert not ours(path)


async def test_long_path_that_is_not_clean_is_found_out_at_once() -> None:
    assert not ours("/api/distributed/requests/" + "a" * 8000 + "%")


# ---------------------------------------------------------------- answers


async def test_answer_of_a_node_passes_with_our_headers_behind_its_own() -> None:
    line = Line(node_says(b"[]", (b"X-A", b"1")))

    got = await line.take(chat(("X-Request-ID", "mine")))

    assert (got.status, got.phrase, got.text, got.framing) == (200, b"OK", b"[]", Framing.LENGTH)
    assert got.reply_headers[0] == (b"X-A", b"1")
    assert got.header("X-Ollama-Node") == "r1"
    assert got.header("X-Ollama-Mode") == "distributed"
    assert got.header("X-Request-ID") == "mine"
    assert got.over
    assert not got.broken


async def test_ids_of_ours_differ() -> None:
    line = Line(node_says(b"[]"))

    first, second = await line.take(chat()), await line.take(chat(("X-Request-ID", "a b")))

    ids = {first.header("X-Request-ID"), second.header("X-Request-ID")}
    assert len(ids) == 2
    assert not ids & {None, "", "a b"}


async def test_answer_to_head_has_no_body() -> None:
    line = Line(node_says(b"Ollama is running"))

    got = await line.take(FakeExchange("HEAD", "/"))

    assert (got.status, got.text, got.framing) == (200, b"", Framing.NONE)
    assert got.header("Content-Length") == "17"


async def test_stream_passes_piece_by_piece_and_ends_clean() -> None:
    body = Stream()
    line = Line(node_says(body, NDJSON, CHUNKED))
    got = await line.take(chat())

    body.say(LINE, LINE)
    assert got.written == [LINE, LINE]
    assert not got.over
    body.say(LAST)
    body.end()
    await settle()

    assert (got.over, got.broken, got.framing) == (True, False, Framing.CHUNKED)
    assert (line.stored, body.closed) == (1, True)
    assert [(one.status, one.bytes_out) for one in line.ended] == [(200, 2 * len(LINE) + len(LAST))]


async def test_prefix_comes_back_in_a_relative_location() -> None:
    line = Line(node_says(b"", (b"Location", b"/api/tags"), status=307))

    got = await line.take(FakeExchange("GET", "/ollama/api/tags/"))

    assert got.header("Location") == "/ollama/api/tags"
    assert line.asked.calls[0].target == b"/api/tags/"


async def test_browser_is_told_that_it_may_read_what_another_node_said() -> None:
    origin = ("Origin", "http://localhost:3000")

    far = await Line(node_says(b"[]")).take(chat(origin))
    near = await Line(node_says(b"[]", local=True)).take(chat(origin))

    assert far.header("Access-Control-Allow-Origin") == "http://localhost:3000"
    assert near.header("Access-Control-Allow-Origin") is None


async def test_mode_of_a_call_is_the_one_that_held_when_it_came() -> None:
    line = Line(node_says(b"[]"), Mode.STANDALONE, "admin")

    got = await line.take(chat())

    assert line.asked.calls[0].mode is Mode.STANDALONE
    assert got.header("X-Ollama-Standalone-Reason") == "admin"


# ---------------------------------------------------------------- refusals


async def test_foreign_host_is_turned_away_before_its_body_is_read() -> None:
    line = Line(node_says(b"[]"))
    exchange = FakeExchange("POST", "/api/chat", body=None)
    exchange.fields = {**exchange.fields, b"host": b"attacker.example"}

    got = await line.take(exchange)

    assert (got.status, got.text, line.asked.calls) == (403, b"", [])
    assert got.header("Date") is not None
    assert [one.status for one in line.ended] == [403]


async def test_origin_that_our_own_ollama_knows_comes_in() -> None:
    line = Line(node_says(b"[]"))

    got = await line.take(chat(("Origin", SITE)))

    assert (got.status, line.stock.asked) == (200, [SITE.encode()])
    assert got.header("Access-Control-Allow-Origin") == SITE


async def test_origin_that_nobody_knows_is_refused() -> None:
    line = Line(node_says(b"[]"))

    got = await line.take(chat(("Origin", "https://evil.example")))

    assert (got.status, line.asked.calls) == (403, [])


async def test_loop_is_508_and_goes_nowhere() -> None:
    line = Line(node_says(b"[]"))

    got = await line.take(chat(("Via", "1.1 tower")))

    assert (got.status, got.phrase, line.asked.calls) == (508, b"Loop Detected", [])


@pytest.mark.parametrize(
    "path, form",
    [("/api/chat", b'{"error":'), ("/v1/chat/completions", b'{"error":{"message":'),
     ("/v1/messages", b'{"type":"error",')],
)  # fmt: skip
async def test_right_that_is_missing_is_said_in_the_caller_s_dialect(
    path: str, form: bytes
) -> None:
    line = Line(node_says(b"[]"))
    line.forbidden = Forbidden("not from there")

    got = await line.take(chat(path=path))

    assert (got.status, line.asked.calls) == (403, [])
    assert got.text.startswith(form)
    assert b"not from there" in got.text


async def test_nobody_can_answer_is_503_that_says_when_to_come_back() -> None:
    got = await Line(NoUpstream("none is available")).take(chat())

    assert (got.status, got.header("Retry-After")) == (503, "1")
    assert got.header("X-Ollama-Fallback-Reason") == "no-nodes"


async def test_attempts_that_failed_are_told_and_logged() -> None:
    tried = (("r1", "connect"), ("r2", "reset"))
    line = Line(AttemptsFailed("r1, r2", tried, status=502))

    got = await line.take(chat())

    assert (got.status, got.header("X-Ollama-Attempts")) == (502, "r1:connect, r2:reset")
    assert line.ended[0].attempts == tried


async def test_fault_of_ours_is_a_500_that_does_not_stop_the_line() -> None:
    line = Line(ZeroDivisionError("in our code"))

    first, second = await line.take(chat()), await line.take(chat())

    assert (first.status, second.status) == (500, 500)
    assert len(line.pipeline.running) == 0


# ---------------------------------------------------------------- deadlines


async def test_fault_of_ours_before_a_call_is_on_its_way_is_a_500_too() -> None:
    line = Line(NoUpstream(""))
    line.forbidden = ZeroDivisionError("oops")

    got = await line.take(chat())

    assert (got.status, line.ended[0].status) == (500, 500)
    assert (len(line.pipeline.running), line.pipeline.budget.kept) == (0, 0)


async def test_deadline_that_passes_before_an_answer_is_504() -> None:
    async def never(_: Call) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    line = Line(never)
    exchange = chat(("X-Ollama-Timeout-Ms", "0"))
    line.edge.take(exchange.real)

    async with asyncio.timeout(2):
        while not exchange.over:
            await asyncio.sleep(0)

    assert (exchange.status, line.ended[0].status) == (504, 504)
    assert line.asked.calls[0].deadline == line.clock.monotonic()


# ---------------------------------------------------------------- broken ends


async def broken(
    mode: Mode, *headers: tuple[bytes, bytes], path: str = "/api/chat"
) -> FakeExchange:
    body = Stream()
    got = await Line(node_says(body, *headers), mode).take(chat(path=path))
    body.say(LINE)
    body.end(StreamBroken("reset"))
    await settle()
    return got


async def test_broken_stream_says_so_on_a_line_of_its_own_and_is_cut() -> None:
    got = await broken(Mode.DISTRIBUTED, NDJSON, CHUNKED)

    assert got.broken
    assert got.written[0] == LINE
    assert got.text[len(LINE) :].startswith(b'{"error":')
    assert got.text.endswith(b"\n")


@pytest.mark.parametrize(
    "mode, headers",
    [
        (Mode.LOCAL, [NDJSON, CHUNKED]),
        (Mode.STANDALONE, [NDJSON, CHUNKED]),
        (Mode.DISTRIBUTED, [NDJSON, (b"Content-Length", b"999")]),
        (Mode.DISTRIBUTED, [NDJSON, CHUNKED, (b"Content-Encoding", b"gzip")]),
        (Mode.DISTRIBUTED, [(b"Content-Type", b"application/json"), CHUNKED]),
    ],
)
async def test_body_that_can_take_no_word_of_ours_is_only_cut(
    mode: Mode, headers: list[tuple[bytes, bytes]]
) -> None:
    got = await broken(mode, *headers)

    assert (got.broken, got.written) == (True, [LINE])


@pytest.mark.parametrize("mode, cut", [(Mode.DISTRIBUTED, True), (Mode.LOCAL, False)])
async def test_engine_that_failed_on_a_compatible_route_is_no_clean_end(
    mode: Mode, cut: bool
) -> None:
    body = Stream()
    line = Line(node_says(body, (b"Content-Type", b"text/event-stream"), CHUNKED), mode)
    got = await line.take(chat(path="/v1/chat/completions"))

    body.say(b'data: {"model":""}\n\n')
    body.end()
    await settle()

    assert (got.over, got.broken, line.stored) == (True, cut, 0)
    assert (b'data: {"error"' in got.text) is cut
    assert line.ended[0].error == "the engine failed in mid-stream"


# ---------------------------------------------------------------- clients that leave, operators


async def test_client_that_leaves_while_it_waits_is_499_and_frees_everything() -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def waits(_: Call) -> Reply:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError

    line = Line(waits)
    got = await line.take(chat())
    assert entered.is_set()

    got.leave()
    await settle()

    assert left.is_set()
    assert (line.ended[0].status, line.ended[0].error) == (499, "the client left")
    assert (got.started, len(line.pipeline.running), line.pipeline.budget.kept) == (False, 0, 0)


async def test_client_that_leaves_in_mid_stream_closes_the_body() -> None:
    body = Stream()
    line = Line(node_says(body, NDJSON, CHUNKED))
    got = await line.take(chat())
    body.say(LINE)

    got.leave()
    await settle()

    assert (body.closed, line.ended[0].status, line.stored) == (True, 499, 0)


async def test_client_that_leaves_in_mid_body_is_499() -> None:
    async def reads(call: Call) -> Reply:
        assert call.rest is not None
        await call.rest.read()
        raise AssertionError

    line = Line(reads)
    exchange = FakeExchange("POST", f"/api/blobs/sha256:{'0' * 64}", body=b"x")
    exchange.over = True

    got = await line.take(exchange)

    assert (got.broken, line.ended[0].status) == (True, 499)


async def test_operator_ends_a_call_before_its_answer_with_a_503() -> None:
    async def waits(_: Call) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    line = Line(waits)
    got = await line.take(chat())

    assert line.pipeline.running.end(line.pipeline.running.all()[0].number)
    await settle()

    assert (got.status, got.over) == (503, True)
    assert b"ended by an operator" in got.text


async def test_operator_ends_a_stream_visibly() -> None:
    body = Stream()
    line = Line(node_says(body, NDJSON, CHUNKED))
    got = await line.take(chat())
    body.say(LINE)

    line.pipeline.running.end(line.pipeline.running.all()[0].number)
    await settle()

    assert got.broken
    assert got.text.startswith(LINE + b'{"error":')
    assert line.ended[0].error == "ended by an operator"
