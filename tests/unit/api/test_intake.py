"""What is read of a body before somebody answers."""

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import cast

import pytest

from ollama_wrap.api import intake
from ollama_wrap.call import Call, Kind
from ollama_wrap.dialects import route
from ollama_wrap.errors import StreamBroken
from ollama_wrap.proxy.budget import Allowance, Budget
from ollama_wrap.wire.base import Exchange

MIB = 1024 * 1024


class Body:
    """An exchange as far as its body goes; it comes in pieces of 64 KiB."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.has_body = bool(body)
        self.taken = 0

    async def whole(self, limit: int) -> bytes | None:
        return self.body if len(self.body) <= limit else None

    async def read(self) -> bytes:
        piece = self.body[self.taken : self.taken + 65536]
        self.taken += len(piece)
        return piece


async def take(
    target: str, body: bytes, *, method: str = "POST", limit: int = 1000
) -> tuple[Call, Budget, Body]:
    path = target.partition("?")[0]
    found = route(method, path)
    call = Call("id", method, target.encode(), path, [], length=len(body))
    call.kind, call.operation, call.dialect = found.kind, found.operation, found.dialect
    call.repeatable = found.repeatable
    budget, exchange = Budget(Allowance(body=limit)), Body(body)
    await intake.read(cast("Exchange", exchange), call, found, budget)
    return call, budget, exchange


def dumped(**fields: object) -> bytes:
    return json.dumps(fields).encode()


async def rest_of(call: Call) -> bytes:
    assert call.rest is not None
    parts = []
    while part := await call.rest.read():
        parts.append(part)
    return b"".join(parts)


async def test_body_within_the_limit_is_kept_and_counted() -> None:
    body = dumped(model="m", messages=[{}])

    call, budget, _ = await take("/api/chat", body)

    assert (call.body, call.model, call.kind) == (body, "m", Kind.INFER)
    assert (call.repeatable, call.stream) == (True, True)
    assert budget.kept == len(body)


async def test_request_without_a_body_has_an_empty_one() -> None:
    call, budget, _ = await take("/api/tags", b"", method="GET")

    assert (call.body, call.kind, budget.kept) == (b"", Kind.LIST, 0)


async def test_body_that_cannot_be_read_is_a_matter_of_our_own_ollama() -> None:
    call, _, _ = await take("/api/chat", b"{")

    assert (call.kind, call.body) == (Kind.OTHER, b"{")


async def test_unload_is_sent_to_all_who_have_it_loaded() -> None:
    call, _, _ = await take("/api/chat", dumped(model="m", keep_alive=0))

    assert (call.kind, call.unload, call.repeatable) == (Kind.SPREAD, True, False)


async def test_blob_streams_unread() -> None:
    call, budget, exchange = await take("/api/blobs/sha256:0", b"x" * 10)

    assert (call.body, call.rest, exchange.taken, budget.kept) == (None, exchange, 0, 0)


LARGE: Mapping[str, object] = {"messages": [], "pad": "x" * 300_000}


async def test_large_body_keeps_its_model_and_streams_whole() -> None:
    body = dumped(model="m", **LARGE)

    call, budget, exchange = await take("/api/chat", body)

    assert (call.body, call.model, call.kind, call.repeatable) == (None, "m", Kind.INFER, False)
    assert exchange.taken == 65536
    assert budget.kept == 0
    assert await rest_of(call) == body


async def test_model_is_looked_for_further_on() -> None:
    body = dumped(**LARGE, model="m", more="x" * 2 * MIB)

    call, _, exchange = await take("/api/chat", body)

    assert (call.model, exchange.taken) == ("m", MIB)
    assert await rest_of(call) == body


async def test_model_that_is_too_far_off_is_a_matter_of_our_own_ollama() -> None:
    body = dumped(pad="x" * 9 * MIB, model="m")

    call, _, exchange = await take("/api/chat", body)

    assert (call.model, call.kind) == (None, Kind.OTHER)
    assert exchange.taken == 8 * MIB
    assert await rest_of(call) == body


@pytest.mark.parametrize(
    "target, kind", [("/api/create", Kind.ONCE), ("/api/copy", Kind.ONCE), ("/api/x", Kind.OTHER)]
)
async def test_large_body_of_another_sort_streams_unread(target: str, kind: Kind) -> None:
    call, _, exchange = await take(target, dumped(model="m", **LARGE))

    assert (call.kind, call.body, call.repeatable, exchange.taken) == (kind, None, False, 0)


async def test_form_with_a_query_is_a_matter_of_our_own_ollama() -> None:
    path = "/v1/audio/transcriptions"
    call, _, _ = await take(f"{path}?model=x", b"--b--\r\n")

    assert call.kind is Kind.OTHER


@pytest.mark.parametrize("operation", ["pull", "push"])
async def test_target_nodes_make_it_a_spread(operation: str) -> None:
    found = route("POST", f"/api/{operation}")
    call = Call("id", "POST", b"", "", [], length=13, targets=("r1",))
    call.operation, call.kind = found.operation, found.kind

    await intake.read(cast("Exchange", Body(b'{"model":"m"}')), call, found, Budget(Allowance()))

    assert (call.kind, call.model) == (Kind.SPREAD, "m")


# ---------------------------------------------------------------- bodies that are still coming


class Trickle(Body):
    """Its last piece never comes, until the client leaves."""

    async def whole(self, limit: int) -> bytes | None:
        return None

    async def read(self) -> bytes:
        if part := await super().read():
            return part
        self.budget = self.seen()
        raise StreamBroken("the client has left")

    def __init__(self, body: bytes, seen: Callable[[], int]) -> None:
        super().__init__(body)
        self.seen = seen


async def gathered(body: bytes, budget: Budget, *, length: int) -> tuple[Call, Trickle]:
    found = route("POST", "/api/chat")
    call = Call("id", "POST", b"/api/chat", "/api/chat", [], length=length)
    call.kind, call.operation, call.dialect = found.kind, found.operation, found.dialect
    call.repeatable = True
    exchange = Trickle(body, lambda: budget.kept)
    with contextlib.suppress(StreamBroken):
        await intake.read(cast("Exchange", exchange), call, found, budget)
    return call, exchange


@pytest.mark.parametrize("length", [-1, 500_000])
async def test_body_is_counted_while_it_comes_and_not_after_its_client_has_left(
    length: int,
) -> None:
    budget = Budget(Allowance(body=MIB, bodies=MIB))

    call, exchange = await gathered(b"x" * 400_000, budget, length=length)

    assert (exchange.budget, budget.kept, call.body) == (400_000, 0, None)


async def test_body_is_given_up_when_all_together_are_too_much() -> None:
    budget = Budget(Allowance(body=MIB, bodies=MIB))
    budget.kept = MIB - 200_000

    call, exchange = await gathered(dumped(model="m", x="y" * 400_000), budget, length=500_000)

    assert (call.body, call.model, call.repeatable) == (None, "m", False)
    assert exchange.taken < 300_000
    assert budget.kept == MIB - 200_000
    assert call.rest is not None
    assert (await call.rest.read()).startswith(b'{"model": "m"')


async def test_model_is_not_looked_for_far_behind_when_memory_is_full() -> None:
    budget = Budget(Allowance(body=MIB, bodies=MIB))
    budget.kept = MIB

    call, exchange = await gathered(dumped(x="y" * 400_000, model="m"), budget, length=500_000)

    assert (call.kind, call.model) == (Kind.OTHER, None)
    assert exchange.taken < 200_000
    assert budget.kept == MIB
