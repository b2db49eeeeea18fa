"""When a kept answer is given, and how it is marked."""

import pytest

from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.config.groups import Cache as Rules
from ollama_wrap.dialects import Ending
from ollama_wrap.errors import AttemptsFailed, NoUpstream, Overloaded, Unavailable, UpstreamError
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.proxy.cache import Cache
from ollama_wrap.proxy.responders.cached import Cached
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.reply import Origin, Reply
from tests.fakes.clock import FakeClock
from tests.fakes.nodes import fleet, upstream

LINES = b'{"response":"a","done":false}\n{"response":"b","done":true}\n'
NDJSON = (b"Content-Type", b"application/x-ndjson")


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fallback = True
        self.told: list[str] = []
        fleets = Fleets(fleet(upstream("local"), upstream("r1=h1")))
        self.cache = Cache(Rules(), fleets, self.clock, lambda: 0, lambda *_: None)
        self.cached = Cached(
            self.cache,
            self.clock,
            lambda: self.fallback,
            lambda: self.told.append("hit"),
            lambda: self.told.append("miss"),
        )

    def store(self, call: Call, body: bytes = LINES) -> None:
        tap = Tap(self.clock.monotonic, self.cache.keep(call))
        tap.feed([body])
        reply = Reply(200, [NDJSON], b"", origin=Origin(node="tower"))
        self.cache.store(call, reply, tap, Ending(done=True, failed=False))


class Pieces:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.ends: list[UpstreamError | None] = []

    def feed(self, pieces: list[bytes]) -> None:
        self.pieces += pieces

    def end(self, error: UpstreamError | None) -> None:
        self.ends.append(error)


def call(*, stream: bool = True, mode: Mode = Mode.DISTRIBUTED, forced: str | None = None) -> Call:
    made = Call("id", "POST", b"/api/generate", "/api/generate", [], mode=mode, kind=Kind.INFER)
    made.operation, made.model, made.body = "generate", "m", b'{"model":"m"}'
    made.stream, made.forced = stream, forced
    return made


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_stream_is_given_again_line_by_line(bench: Bench) -> None:
    bench.store(call())
    sink = Pieces()

    reply = await bench.cached.answer(call(), None)
    assert not isinstance(reply.body, bytes)
    reply.body.start(sink)

    assert reply.status == 200
    assert reply.headers == [NDJSON, (b"Transfer-Encoding", b"chunked")]
    assert sink.pieces == LINES.splitlines(keepends=True)
    assert sink.ends == [None]


async def test_object_is_given_whole_to_who_asks_for_one(bench: Bench) -> None:
    bench.store(call())

    reply = await bench.cached.answer(call(stream=False), None)

    assert reply.body == b'{"response":"ab","done":true}'
    assert reply.headers == [(b"Content-Type", b"application/json; charset=utf-8")]


async def test_answer_says_how_old_it_is_and_what_was_tried(bench: Bench) -> None:
    bench.store(call())
    bench.clock.advance(4.7)
    attempts = [("tower", "connect"), ("r1", "reset")]

    reply = await bench.cached.answer(call(), AttemptsFailed("", attempts))

    assert reply.origin == Origin(fallback="connect", attempts=tuple(attempts), age=4)


@pytest.mark.parametrize(
    "before,mode,word",
    [
        (None, Mode.DISTRIBUTED, "no-nodes"),
        (NoUpstream("none"), Mode.DISTRIBUTED, "no-nodes"),
        (AttemptsFailed("", [("r1", "busy"), ("r2", "oom")]), Mode.DISTRIBUTED, "oom"),
        (AttemptsFailed("", [("r1", "busy")]), Mode.DISTRIBUTED, "no-nodes"),
        (AttemptsFailed("", [("tower", "connect")]), Mode.STANDALONE, "standalone-mode"),
    ],
)
async def test_answer_says_why_it_comes_from_the_cache(
    bench: Bench, before: Unavailable | None, mode: Mode, word: str
) -> None:
    bench.store(call())

    reply = await bench.cached.answer(call(mode=mode), before)

    assert reply.origin.fallback == word


async def test_no_kept_answer_leaves_the_error_to_others(bench: Bench) -> None:
    with pytest.raises(NoUpstream):
        await bench.cached.answer(call(), None)

    assert bench.told == ["miss"]


async def test_hits_are_told(bench: Bench) -> None:
    bench.store(call())
    await bench.cached.answer(call(), None)

    assert bench.told == ["hit"]


async def test_nothing_is_given_where_fallback_is_off(bench: Bench) -> None:
    bench.store(call())
    bench.fallback = False

    with pytest.raises(NoUpstream):
        await bench.cached.answer(call(), None)


async def test_nothing_is_given_while_nodes_are_only_busy(bench: Bench) -> None:
    bench.store(call())

    with pytest.raises(NoUpstream):
        await bench.cached.answer(call(), Overloaded("later"))


async def test_forced_call_has_no_fallback(bench: Bench) -> None:
    bench.store(call())

    with pytest.raises(NoUpstream):
        await bench.cached.answer(call(forced="r1"), None)


async def test_given_answer_is_not_kept_anew(bench: Bench) -> None:
    bench.store(call())
    bench.clock.advance(200)
    reply = await bench.cached.answer(call(), None)
    tap = Tap(bench.clock.monotonic, bench.cache.keep(call()))
    tap.feed([LINES])

    bench.cache.store(call(), reply, tap, Ending(done=True, failed=False))

    bench.clock.advance(150)
    assert bench.cache.find(call()) is None
