"""Whose model it is, and who may change it there."""

import pytest

from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.errors import AttemptsFailed, CallerError, Forbidden, NoUpstream
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.inventory import Inventory, Model
from ollama_wrap.proxy.responders.follow import Follow
from tests.fakes.line import Stand, wire
from tests.fakes.nodes import WALL, fleet, health, key, upstream


class Bench:
    def __init__(self) -> None:
        self.here = upstream("local", ["mine"])
        self.r1 = upstream("r1=h1", ["big", "both", "mine"])
        self.r2 = upstream("r2=h2;models=both*", ["both", "hidden"])
        self.local, self.ranked = Stand(), Stand()
        self.trusts = False
        self.refreshed: list[str] = []
        fleets = Fleets(fleet(self.here, self.r1, self.r2))
        self.follow = Follow(
            wire(fleets, self.refreshed), self.local, self.ranked, lambda _: self.trusts
        )

    async def asked(self, call: Call) -> str:
        """Who was asked: none of the others has an address, and its failure names it."""
        try:
            await self.follow.answer(call, None)
        except AttemptsFailed as error:
            ((node, _),) = error.attempts
            return node
        return "local" if self.local.calls else "ranked"


def call(
    model: str | None, operation: str = "delete", *, near: bool = True, forced: str | None = None
) -> Call:
    made = Call("id", "DELETE", b"/api/delete", "/api/delete", [], mode=Mode.DISTRIBUTED)
    made.kind, made.operation, made.follows = Kind.FOLLOW, operation, model
    made.loopback, made.forced = near, forced
    return made


@pytest.fixture
async def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("operation", ["show", "model"])
async def test_show_is_ranked_as_inference_is(bench: Bench, operation: str) -> None:
    assert await bench.asked(call("big", operation)) == "ranked"


@pytest.mark.parametrize("operation", ["delete", "copy", "create"])
async def test_model_of_one_other_node_is_changed_there(bench: Bench, operation: str) -> None:
    assert await bench.asked(call("BIG:latest", operation)) == "r1"


@pytest.mark.parametrize("model", ["mine", "nobodys", "hidden", "big:cloud", "../x", "", None])
async def test_all_else_is_a_matter_of_the_local_ollama(bench: Bench, model: str | None) -> None:
    assert await bench.asked(call(model)) == "local"


async def test_our_own_stub_is_here(bench: Bench) -> None:
    stub = Model("big", key("big"), "d", remote=True)
    bench.here.inventory = Inventory().listed([stub], WALL)

    assert await bench.asked(call("big")) == "local"


async def test_ollama_that_has_not_listed_its_models_may_have_any(bench: Bench) -> None:
    bench.here.inventory = Inventory()

    assert await bench.asked(call("big")) == "local"


async def test_models_are_read_again_after_a_change(bench: Bench) -> None:
    await bench.asked(call("big"))
    await bench.asked(call("mine"))

    assert bench.refreshed == ["r1"]
    assert [one.kind for one in bench.local.calls] == [Kind.ONCE]


async def test_model_of_several_nodes_is_refused_with_their_names(bench: Bench) -> None:
    with pytest.raises(CallerError, match="r1, r2") as caught:
        await bench.asked(call("both"))

    assert (caught.value.status, caught.value.details) == (409, {"nodes": ["r1", "r2"]})


async def test_holder_counts_though_it_is_down(bench: Bench) -> None:
    bench.r1.health = health(NodeState.DOWN)

    assert await bench.asked(call("big")) == "r1"


async def test_other_nodes_are_changed_only_by_who_may(bench: Bench) -> None:
    with pytest.raises(Forbidden, match="OLLAMA_ADMIN_TOKEN"):
        await bench.asked(call("big", near=False))
    here = await bench.asked(call("mine", near=False))
    bench.trusts = True

    assert here == "local"
    assert await bench.asked(call("big", near=False)) == "r1"


@pytest.mark.parametrize(
    "model,forced,node",
    [
        ("both", "r2", "r2"),
        ("mine", "r1", "r1"),
        ("nobodys", "r1", "r1"),
        ("big", "remote", "r1"),
        ("big", "local", "local"),
        ("big", "tower", "local"),
    ],
)
async def test_force_header_names_the_node(
    bench: Bench, model: str, forced: str, node: str
) -> None:
    assert await bench.asked(call(model, forced=forced)) == node


async def test_named_node_that_is_down_is_not_replaced(bench: Bench) -> None:
    bench.r1.health = health(NodeState.DOWN)

    with pytest.raises(NoUpstream, match="r1"):
        await bench.asked(call("big", forced="r1"))
