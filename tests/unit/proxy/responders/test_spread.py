"""To whom a call is spread; what they answer is seen in tests/flow."""

import json

import pytest

from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.errors import AttemptsFailed, CallerError, Forbidden
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.proxy.responders.spread import Spread
from ollama_wrap.proxy.responders.woven import Woven
from ollama_wrap.reply import Reply
from tests.fakes.line import Stand, wire
from tests.fakes.nodes import fleet, health, upstream


class Bench:
    def __init__(self) -> None:
        self.here = upstream("local", ["m"])
        self.r1 = upstream("r1=h1", ["m"], loaded=["m"])
        self.r2 = upstream("r2=h2", ["m"], loaded=["m"])
        self.sglang = upstream("s1=h3;kind=sglang", ["m"], loaded=["m"])
        self.ranked = Stand()
        self.trusts = False
        self.refreshed: list[str] = []
        fleets = Fleets(fleet(self.here, self.r1, self.r2, self.sglang))
        self.spread = Spread(wire(fleets, self.refreshed), self.ranked, lambda _: self.trusts)

    async def answer(self, call: Call) -> Reply:
        return await self.spread.answer(call, None)

    async def results(self, call: Call) -> dict[str, dict[str, object]]:
        reply = await self.answer(call)
        assert isinstance(reply.body, bytes)
        shape: dict[str, dict[str, object]] = json.loads(reply.body)["results"]
        return shape

    async def unloaded(self, call: Call) -> set[str]:
        """Who was told: nobody has an address, and the failure names them."""
        try:
            await self.answer(call)
        except AttemptsFailed as error:
            return {node for node, _ in error.attempts}
        return set()


def call(operation: str = "pull", *targets: str, stream: bool = False, near: bool = True) -> Call:
    made = Call("id", "POST", b"/api/pull", "/api/pull", [], mode=Mode.DISTRIBUTED)
    made.kind, made.operation, made.model = Kind.SPREAD, operation, "m"
    made.targets, made.stream, made.loopback = targets, stream, near
    return made


def unload(model: str | None = "m", forced: str | None = None) -> Call:
    made = call("generate")
    made.unload, made.model, made.forced = True, model, forced
    return made


@pytest.fixture
async def bench() -> Bench:
    return Bench()


# ---------------------------------------------------------------- named nodes


@pytest.mark.parametrize(
    "targets,nodes",
    [
        (["r1"], ["r1"]),
        (["r2", "r1", "r2"], ["r2", "r1"]),
        (["local"], ["tower"]),
        (["tower", "local"], ["tower"]),
        (["all"], ["tower", "r1", "r2"]),
        (["r1", "all"], ["tower", "r1", "r2"]),
    ],
)
async def test_targets_are_nodes_each_once(
    bench: Bench, targets: list[str], nodes: list[str]
) -> None:
    assert list(await bench.results(call("pull", *targets))) == nodes


async def test_node_that_does_not_answer_has_no_status(bench: Bench) -> None:
    reply = await bench.answer(call("push", "r1"))

    assert reply.status == 502
    assert reply.headers == [(b"Content-Type", b"application/json; charset=utf-8")]
    assert json.loads(reply.body if isinstance(reply.body, bytes) else b"") == {
        "results": {"r1": {"status": None, "error": "the name h1 has no known address"}}
    }


async def test_every_node_is_read_again(bench: Bench) -> None:
    await bench.answer(call("pull", "r1", "r2"))

    assert sorted(bench.refreshed) == ["r1", "r2"]
    assert bench.r1.in_flight == bench.r2.in_flight == 0


@pytest.mark.parametrize("name", ["nobody", "true", ""])
async def test_unknown_node_is_said(bench: Bench, name: str) -> None:
    with pytest.raises(CallerError) as caught:
        await bench.answer(call("pull", "r1", name))

    assert (caught.value.status, caught.value.code) == (404, "NODE_NOT_FOUND")
    assert bench.refreshed == []


async def test_node_that_takes_no_calls_is_said(bench: Bench) -> None:
    with pytest.raises(CallerError, match="s1") as caught:
        await bench.answer(call("pull", "s1"))

    assert (caught.value.status, caught.value.code) == (409, "CONFLICT")


async def test_stream_is_lines_of_all_nodes(bench: Bench) -> None:
    reply = await bench.answer(call("pull", "r1", "r2", stream=True))

    assert isinstance(reply.body, Woven)
    assert (reply.status, reply.phrase) == (200, b"OK")
    assert reply.headers == [
        (b"Content-Type", b"application/x-ndjson"),
        (b"Transfer-Encoding", b"chunked"),
    ]


async def test_models_of_other_nodes_are_deleted_by_who_may(bench: Bench) -> None:
    with pytest.raises(Forbidden, match="OLLAMA_ADMIN_TOKEN"):
        await bench.answer(call("delete", "local", "r1", near=False))
    here = await bench.results(call("delete", "local", near=False))
    pulled = await bench.results(call("pull", "r1", near=False))
    bench.trusts = True

    assert (list(here), list(pulled)) == (["tower"], ["r1"])
    assert list(await bench.results(call("delete", "r1", near=False))) == ["r1"]


# ---------------------------------------------------------------- unloading


async def test_model_is_unloaded_where_it_is_loaded_and_here(bench: Bench) -> None:
    assert await bench.unloaded(unload()) == {"tower", "r1", "r2"}


async def test_who_has_no_such_model_is_left_alone(bench: Bench) -> None:
    bench.here.inventory = upstream("local", ["other"]).inventory
    bench.r2.health = health(NodeState.DOWN)

    assert await bench.unloaded(unload()) == {"r1"}


async def test_unloading_gives_every_place_back(bench: Bench) -> None:
    await bench.unloaded(unload())

    assert [one.in_flight for one in (bench.here, bench.r1, bench.r2)] == [0, 0, 0]


@pytest.mark.parametrize(
    "one",
    [unload("elsewhere"), unload("m:cloud"), unload("../x"), unload(None), unload(forced="r1")],
    ids=["not loaded", "cloud", "no name", "none", "forced"],
)
async def test_what_cannot_be_spread_is_ranked(bench: Bench, one: Call) -> None:
    await bench.answer(one)

    assert bench.ranked.calls == [one]
