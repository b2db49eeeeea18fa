"""The usual call without a task: what it does by itself, and what it hands over."""

import asyncio

import pytest

from ollama_wrap import tasks
from ollama_wrap.api.express import Express
from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.dialects import Ending
from ollama_wrap.errors import StreamBroken, UpstreamError
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.running import Open, Running
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.wire.base import Exchange, Framing
from tests.fakes.clock import settle
from tests.fakes.exchange import FakeExchange
from tests.fakes.line import wire
from tests.fakes.nodes import fleet, health, key, upstream
from tests.fakes.warm import END, HEAD, chunk, warm

LINE = b'{"done":false}\n'
LAST = b'{"done":true}\n'
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}"


class Usual:
    """The edge as an Express sees it: keeps what it is asked for, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.error: UpstreamError | None = None
        self.faulty: str | None = None

    def _tell(self, word: str) -> None:
        self.told.append(word)
        if word == self.faulty:
            raise ZeroDivisionError(word)

    def go_on(self, exchange: Exchange, one: Open) -> None:
        self._tell("go on")

    def begin(self, exchange: Exchange, one: Open) -> None:
        self._tell("begin")
        assert one.reply is not None
        exchange.begin(one.reply.status, b"", one.reply.headers, Framing.CHUNKED)

    def finish(self, exchange: Exchange, one: Open, error: UpstreamError | None) -> Ending | None:
        self.error = error
        self._tell("finish")
        exchange.end()
        return None

    def ended_early(self, exchange: Exchange, one: Open) -> None:
        self._tell("ended early")

    def failed(self, exchange: Exchange, one: Open, error: Exception) -> None:
        self._tell("failed")

    def close(self, one: Open, ending: Ending | None) -> None:
        if one.reply is not None:
            one.reply.close()
        self._tell("close")


class Way:
    """One call on its way to `r1`, over a connection whose other side the test plays."""

    def __init__(self, mode: Mode = Mode.DISTRIBUTED) -> None:
        self.upstream = upstream("r1=h1")
        self.fleets = Fleets(fleet(upstream("local"), self.upstream, mode=mode))
        means = wire(self.fleets)
        self.node = warm(means, self.upstream)
        self.line, self.exchange = Usual(), FakeExchange("POST", "/api/chat", body=b"{}")
        call = Call("id", "POST", b"/api/chat", "/api/chat", [], mode=mode, model="m", body=b"{}")
        call.kind, call.operation, call.repeatable = Kind.INFER, "chat", True
        self.call = call
        running = Running()
        self.fleets.changed.subscribe(running.look)
        self.one = running.add(call, None, Tap(means.clock.monotonic, 0), 0.0)
        self.upstream.take(key("m"))
        self.attempt = Attempt(means, call, self.upstream, key("m"))
        assert self.attempt.ask()
        Express(self.line, self.exchange.real, self.one, self.attempt)

    @property
    def freed(self) -> bool:
        """The place was given back, and nobody looks at the fleet for this call any more."""
        return self.upstream.in_flight == 0


async def test_answer_passes_without_a_task() -> None:
    way = Way()
    assert way.node.asked.startswith(b"POST /api/chat HTTP/1.1\r\n")

    way.node.says(HEAD, chunk(LINE))
    assert way.exchange.written == [LINE]
    way.node.says(chunk(LAST), END)

    assert way.exchange.written == [LINE, LAST]
    assert way.line.told == ["begin", "finish", "close"]
    assert (way.node.free, way.freed, way.one.tap.total) == (True, True, len(LINE + LAST))
    assert tasks.running() == frozenset()


@pytest.mark.parametrize("mode, begun", [(Mode.DISTRIBUTED, []), (Mode.LOCAL, ["begin"])])
async def test_head_alone_is_an_answer_only_where_nobody_else_could_give_one(
    mode: Mode, begun: list[str]
) -> None:
    way = Way(mode)

    way.node.says(HEAD)

    assert way.line.told == begun


async def test_answer_that_may_mean_something_is_looked_at_on_the_usual_line() -> None:
    way = Way()

    way.node.says(BUSY)

    assert (way.line.told, way.call.begun) == (["go on"], way.attempt)
    assert not way.freed
    assert not way.exchange.started


async def test_in_local_mode_every_status_is_the_answer() -> None:
    way = Way(Mode.LOCAL)

    way.node.says(BUSY)

    assert (way.line.told, way.exchange.status) == (["begin", "finish", "close"], 503)


async def test_connection_that_was_dead_is_a_matter_of_the_usual_line() -> None:
    way = Way()

    way.node.ends()

    assert (way.line.told, way.call.begun) == (["go on"], way.attempt)


async def test_node_that_goes_down_is_a_matter_of_the_usual_line() -> None:
    way = Way()

    way.upstream.health = health(NodeState.DOWN)
    way.fleets.changed.fire()
    way.node.says(HEAD, chunk(LINE))

    assert way.line.told == ["go on"]
    assert way.exchange.written == []


async def test_node_that_goes_down_after_its_first_byte_goes_on_if_it_can() -> None:
    way = Way()
    way.node.says(HEAD, chunk(LINE))

    way.upstream.health = health(NodeState.DOWN)
    way.fleets.changed.fire()
    way.node.says(chunk(LAST), END)

    assert (way.line.told, way.exchange.written) == (["begin", "finish", "close"], [LINE, LAST])


@pytest.mark.parametrize("said", [(), (HEAD, chunk(LINE))])
async def test_client_that_leaves_ends_the_call_at_once(said: tuple[bytes, ...]) -> None:
    way = Way()
    if said:
        way.node.says(*said)

    way.exchange.leave()

    assert way.line.told[-2:] == ["ended early", "close"]
    assert (way.freed, way.node.transport.gone) == (True, True)
    way.exchange.leave()
    await settle()
    assert way.line.told.count("close") == 1


async def test_operator_ends_it_in_the_same_way() -> None:
    way = Way()
    assert way.one.cancel is not None

    way.one.cancel()

    assert way.line.told == ["ended early", "close"]


async def test_stream_that_breaks_is_said_to_be_broken() -> None:
    way = Way()
    way.node.says(HEAD, chunk(LINE))

    way.node.ends()

    assert isinstance(way.line.error, StreamBroken)
    assert (way.line.told, way.freed) == (["begin", "finish", "close"], True)


async def test_garbage_that_comes_with_the_first_byte_is_a_matter_of_the_usual_line() -> None:
    way = Way()

    way.node.says(HEAD, chunk(LINE), b"no chunk\r\n")

    assert (way.line.told, way.exchange.started) == (["go on"], False)


async def test_call_that_has_ended_is_held_by_nothing() -> None:
    way = Way()

    way.node.says(HEAD, chunk(LAST), END)

    assert (way.exchange.gone, way.exchange.writable, way.one.cancel) == (None, None, None)


async def test_client_that_reads_slowly_holds_the_node_back() -> None:
    way = Way()
    way.exchange.paused = True

    way.node.says(HEAD, chunk(LINE))
    assert way.node.transport.paused
    way.exchange.paused = False
    assert way.exchange.writable is not None
    way.exchange.writable()

    assert not way.node.transport.paused


@pytest.mark.parametrize("step", ["begin", "finish"])
async def test_fault_of_ours_is_said_and_frees_the_node(step: str) -> None:
    way = Way()
    way.line.faulty = step

    way.node.says(HEAD, chunk(LINE), END)
    await asyncio.sleep(0)

    assert way.line.told[-3:] == [step, "failed", "close"]
    assert way.freed
