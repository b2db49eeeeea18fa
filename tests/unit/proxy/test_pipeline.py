"""Who stands in line for which call, and how a call is opened and closed."""

import json

import pytest

from ollama_wrap.call import Call, Kind, Mode, Priority
from ollama_wrap.dialects import Ending
from ollama_wrap.errors import NoUpstream, Overloaded, Unavailable
from ollama_wrap.observe.ended import Ended
from ollama_wrap.observe.pressure import Measure
from ollama_wrap.proxy.budget import Allowance, Budget
from ollama_wrap.proxy.pipeline import Chains, Pipeline, Responders, Told
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.reply import Origin, Reply
from ollama_wrap.routing.policies.base import Candidate
from ollama_wrap.routing.router import Ranking
from tests.fakes.bodies import Stream
from tests.fakes.clock import FakeClock
from tests.fakes.nodes import call, key, upstream

NDJSON = (b"Content-Type", b"application/x-ndjson")


class Named:
    """A responder that answers with its name, or not at all."""

    def __init__(self, name: str, reply: Reply | None = None) -> None:
        self.name = name
        self.reply = reply

    async def answer(self, asked: Call, before: Unavailable | None) -> Reply:
        if self.reply is None:
            raise NoUpstream(self.name)
        return self.reply


class Bench:
    def __init__(self, reply: Reply | None = None) -> None:
        self.clock = FakeClock()
        self.ended: list[tuple[Ended, Kind]] = []
        self.stored: list[bytes | None] = []
        named = {name: Named(name, reply) for name in Responders.__slots__}
        self.chains = Chains(Responders(**named))
        told = Told(lambda *one: self.ended.append(one), self._store, lambda _: 1000)
        budget = Budget(Allowance())
        self.pipeline = Pipeline(self.chains, self._rank, told, budget, self.clock)

    def _store(self, asked: Call, reply: Reply, tap: Tap, ending: Ending) -> None:
        self.stored.append(tap.whole())

    def _rank(self, asked: Call) -> Ranking:
        candidate = Candidate(upstream("r1=h1"), "policy", 0.5, busy=True, loaded=True)
        return Ranking((candidate,), key("m"), passed_over="local-unhealthy")

    def line(self, asked: Call) -> list[str]:
        return [one.name for one in self.chains.of(asked) if isinstance(one, Named)]


def asked(kind: Kind, mode: Mode = Mode.DISTRIBUTED, **fields: object) -> Call:
    made = call(mode=mode)
    made.kind = kind
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    "kind, line",
    [
        (Kind.INFER, ["ranked", "cached"]),
        (Kind.FOLLOW, ["follow"]),
        (Kind.SPREAD, ["spread"]),
        (Kind.LIST, ["merged"]),
        (Kind.ONCE, ["local"]),
        (Kind.OTHER, ["local"]),
    ],
)
def test_line_in_distributed_mode(kind: Kind, line: list[str]) -> None:
    assert Bench().line(asked(kind)) == line


@pytest.mark.parametrize("kind", Kind)
def test_our_own_ollama_answers_in_local_mode(kind: Kind) -> None:
    line = ["ranked"] if kind is Kind.INFER else ["local"]

    assert Bench().line(asked(kind, Mode.LOCAL)) == line
    assert Bench().line(asked(kind, Mode.DISTRIBUTED, hop=True)) == line


@pytest.mark.parametrize("kind", Kind)
def test_standalone_is_local_with_kept_answers(kind: Kind) -> None:
    line = ["ranked", "cached"] if kind is Kind.INFER else ["local"]

    assert Bench().line(asked(kind, Mode.STANDALONE)) == line


def test_show_in_standalone_asks_a_holder_that_is_away() -> None:
    assert Bench().line(asked(Kind.FOLLOW, Mode.STANDALONE, repeatable=True)) == ["ranked"]


async def test_call_is_counted_from_its_opening_to_its_end() -> None:
    body = Stream()
    bench = Bench(Reply(200, [NDJSON], body, origin=Origin(node="r1", reason="policy")))
    one = bench.pipeline.open(asked(Kind.INFER, body=b"{}", started=bench.clock.monotonic()), None)
    bench.pipeline.budget.kept += 2
    assert (bench.pipeline.budget.running, len(bench.pipeline.running)) == (1, 1)

    await bench.pipeline.answer(one)
    one.tap.feed([b'{"done":true,"eval_count":5}\n'])
    bench.clock.advance(2.0)
    ending = bench.pipeline.judge(one)
    bench.pipeline.close(one, ending)

    ((ended, kind),) = bench.ended
    assert (ended.status, ended.node, ended.reason, ended.tokens) == (200, "r1", "policy", 5)
    assert (ended.duration, ended.first_byte, kind) == (2.0, 0.0, Kind.INFER)
    assert body.closed
    assert (bench.pipeline.budget.running, len(bench.pipeline.running)) == (0, 0)
    assert bench.pipeline.budget.kept == 0


async def test_call_that_got_no_reply_is_closed_too() -> None:
    bench = Bench()
    one = bench.pipeline.open(asked(Kind.INFER), None)
    with pytest.raises(NoUpstream):
        await bench.pipeline.answer(one)

    one.status, one.error, one.attempts = 503, "nobody", (("r1", "connect"),)
    bench.pipeline.close(one, None)

    ((ended, _),) = bench.ended
    assert (ended.status, ended.error, ended.node) == (503, "nobody", None)
    assert ended.attempts == (("r1", "connect"),)


@pytest.mark.parametrize(
    "status, text, stored",
    [
        (200, b'{"done":true}\n', True),
        (200, b'{"done":false}\n', False),
        (200, b'{"error":"x"}\n', False),
        (500, b'{"done":true}\n', False),
    ],
)
async def test_answers_that_are_whole_and_good_are_kept(
    status: int, text: bytes, stored: bool
) -> None:
    bench = Bench(Reply(status, [NDJSON], Stream()))
    one = bench.pipeline.open(asked(Kind.INFER), None)
    await bench.pipeline.answer(one)
    one.tap.feed([text])

    bench.pipeline.judge(one)

    assert bench.stored == ([text] if stored else [])


async def test_only_inference_is_judged() -> None:
    bench = Bench(Reply(200, [NDJSON], Stream()))
    one = bench.pipeline.open(asked(Kind.LIST), None)
    await bench.pipeline.answer(one)

    assert bench.pipeline.judge(one) is None


async def test_dry_run_is_the_ranking() -> None:
    bench = Bench()
    one = bench.pipeline.open(asked(Kind.INFER, dry_run=True), None)

    reply = await bench.pipeline.answer(one)

    assert isinstance(reply.body, bytes)
    row = {"node": "r1", "score": 0.5, "reason": "policy", "busy": True, "loaded": True}
    assert json.loads(reply.body) == {
        "mode": "distributed",
        "model": "m",
        "ranking": [row],
        "fallback": "local-unhealthy",
    }


@pytest.mark.parametrize(
    "measure, kind, priority, refused",
    [
        (Measure.REFUSE, Kind.INFER, Priority.MEDIUM, True),
        (Measure.REFUSE, Kind.INFER, Priority.LOW, True),
        (Measure.REFUSE, Kind.LIST, Priority.LOW, False),
        (Measure.REFUSE, Kind.SPREAD, Priority.MEDIUM, False),
        (Measure.REFUSE, Kind.ONCE, Priority.MEDIUM, False),
        (Measure.SHED, Kind.INFER, Priority.LOW, True),
        (Measure.SHED, Kind.INFER, Priority.MEDIUM, False),
        (Measure.SHED, Kind.FOLLOW, Priority.LOW, False),
        (Measure.SPARE, Kind.INFER, Priority.LOW, False),
        (Measure.BRIEF, Kind.INFER, Priority.LOW, False),
    ],
)
async def test_overload_turns_inference_away(
    measure: Measure, kind: Kind, priority: Priority, *, refused: bool
) -> None:
    bench = Bench(Reply(200, [], b"{}", origin=Origin()))
    bench.pipeline.budget.strain.put(frozenset({measure}))
    bench.pipeline.budget.strain.retry_after = 9
    one = bench.pipeline.open(call().altered(kind=kind, priority=priority), None)

    try:
        await bench.pipeline.answer(one)
        answered: Overloaded | None = None
    except Overloaded as error:
        answered = error

    assert (answered is not None) is refused
    assert answered is None or answered.retry_after == 9
