"""Lists, version and heartbeat of several nodes, the local one scripted."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from ollama_wrap import __version__, dialects
from ollama_wrap.call import Call, Mode
from ollama_wrap.errors import AttemptsFailed, StreamBroken, Unavailable
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.inventory import Inventory, Loaded, Model
from ollama_wrap.nodes.names import is_cloud
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy.responders.merged import Merged
from ollama_wrap.reply import Origin, Reply, Sink
from tests.fakes.nodes import WALL, fleet, health, key, upstream

REFUSED = AttemptsFailed("Ollama does not answer: refused", [("tower", "connect")])


class Ollama:
    """The local one: answers with `says`, or never when that is None."""

    def __init__(self) -> None:
        self.says: Reply | Unavailable | None = REFUSED
        self.calls: list[Call] = []

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        self.calls.append(call)
        if self.says is None:
            await asyncio.Event().wait()
        if isinstance(self.says, Reply):
            return self.says
        raise self.says or REFUSED


class Broken:
    """A body that breaks at once."""

    def start(self, sink: Sink) -> None:
        sink.end(StreamBroken("cut"))

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def close(self) -> None:
        pass


class Bench:
    def __init__(self, *others: Upstream) -> None:
        self.here = upstream("local", ())
        self.ollama = Ollama()
        fleets = Fleets(fleet(self.here, *others))
        self.merged = Merged(fleets, self.ollama, 0.05, lambda _: 2)

    async def ask(self, path: str, method: str = "GET") -> Reply:
        call = Call("id", method, path.encode(), path, [], mode=Mode.DISTRIBUTED)
        route = dialects.route(method, path)
        call.kind, call.operation = route.kind, route.operation
        return await self.merged.answer(call, None)

    async def rows(self, path: str) -> list[dict[str, Any]]:
        reply = await self.ask(path)
        assert isinstance(reply.body, bytes)
        shape = json.loads(reply.body)
        listed: list[dict[str, Any]] = shape["data" if path == "/v1/models" else "models"]
        return listed


def entry(name: str, day: int = 1, **more: object) -> dict[str, object]:
    modified = f"2026-01-{day:02}T00:00:00Z"
    return {"name": name, "model": name, "modified_at": modified, "size": 7, "digest": "d"} | more


def said(entries: Iterable[dict[str, object]], status: int = 200) -> Reply:
    body = json.dumps({"models": list(entries)}).encode()
    headers = [(b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body))]
    return Reply(status, headers, body, origin=Origin(node="tower", local=True))


def node(
    text: str, *entries: dict[str, object], loaded: Iterable[dict[str, object]] = ()
) -> Upstream:
    made = upstream(text, ())
    give(made, *entries, loaded=loaded)
    return made


def give(
    target: Upstream, *entries: dict[str, object], loaded: Iterable[dict[str, object]] = ()
) -> None:
    models = [
        Model(
            name := str(one["name"]),
            key(name),
            "d",
            remote="remote_host" in one or is_cloud(name),
            raw=json.dumps(one).encode(),
        )
        for one in entries
    ]
    running = [Loaded(key(str(one["name"])), "d", json.dumps(one).encode()) for one in loaded]
    target.inventory = Inventory(version="0.33.0").listed(models, WALL).running(running)


# ---------------------------------------------------------------- lists


async def test_models_of_all_nodes_are_one_list_sorted_as_stock_sorts() -> None:
    bench = Bench(
        node("r1=h1", entry("big:latest", 3), entry("tiny:latest", 9)),
        node("r2=h2", entry("old:latest", 1), entry("big:latest", 8)),
    )
    bench.ollama.says = said([entry("tiny:latest", 2)])

    rows = await bench.rows("/api/tags")

    assert rows == [
        {**entry("big:latest", 3), "nodes": ["r1", "r2"]},
        {**entry("tiny:latest", 2), "nodes": ["tower", "r1"]},
        {**entry("old:latest", 1), "nodes": ["r2"]},
    ]


async def test_local_list_is_asked_live() -> None:
    bench = Bench(node("r1=h1", entry("big:latest")))
    give(bench.here, entry("deleted:latest"))
    bench.ollama.says = said([entry("new:latest")])

    rows = await bench.rows("/api/tags")

    assert {row["name"] for row in rows} == {"new:latest", "big:latest"}


async def test_list_is_made_anew_whenever_what_it_is_made_of_changes() -> None:
    far = node("r1=h1", entry("big:latest"))
    bench = Bench(far)
    bench.ollama.says = said([entry("new:latest")])
    before = await bench.rows("/api/tags")

    again = await bench.rows("/api/tags")
    give(far, entry("bigger:latest"))
    there = await bench.rows("/api/tags")
    bench.ollama.says = said([entry("newer:latest")])
    here = await bench.rows("/api/tags")
    far.health = health(NodeState.DOWN)
    alone = await bench.rows("/api/tags")

    assert again == before
    assert {row["name"] for row in there} == {"new:latest", "bigger:latest"}
    assert {row["name"] for row in here} == {"newer:latest", "bigger:latest"}
    assert {row["name"] for row in alone} == {"newer:latest"}


async def test_other_spelling_of_a_name_is_the_same_model() -> None:
    bench = Bench(node("r1=h1", entry("TINY:latest")))
    bench.ollama.says = said([entry("tiny:latest")])

    assert [row["nodes"] for row in await bench.rows("/api/tags")] == [["tower", "r1"]]


async def test_stubs_of_other_nodes_are_left_out_and_our_own_stay() -> None:
    stub = entry("far:latest", remote_host="https://ollama.com")
    bench = Bench(node("r1=h1", entry("gpt:120b-cloud"), stub))
    bench.ollama.says = said([entry("mine:120b-cloud")])

    assert [row["name"] for row in await bench.rows("/api/tags")] == ["mine:120b-cloud"]


async def test_models_of_a_dead_node_and_those_that_its_patterns_hide_are_left_out() -> None:
    dead = node("r1=h1", entry("gone:latest"))
    dead.health = health(NodeState.DOWN)
    bench = Bench(dead, node("r2=h2;models=big*", entry("big:latest"), entry("other:latest")))
    bench.ollama.says = said([])

    assert [row["name"] for row in await bench.rows("/api/tags")] == ["big:latest"]


async def test_loaded_models_of_all_nodes_are_one_list() -> None:
    late = entry("big:latest", expires_at="2026-01-02T00:00:00Z")
    bench = Bench(node("r1=h1", entry("big:latest"), loaded=[late]))
    soon = entry("tiny:latest", expires_at="2026-01-01T00:00:00Z")
    bench.ollama.says = said([soon])

    rows = await bench.rows("/api/ps")

    assert rows == [{**late, "nodes": ["r1"]}, {**soon, "nodes": ["tower"]}]


async def test_compatible_list_has_stocks_form() -> None:
    bench = Bench(node("r1=h1", entry("me/big:latest", 1)))
    row = {"id": "tiny:latest", "object": "model", "created": 1, "owned_by": "library"}
    body = json.dumps({"object": "list", "data": [row]}).encode()
    bench.ollama.says = Reply(200, [], body)

    reply = await bench.ask("/v1/models")

    assert reply.headers == [(b"Content-Type", b"application/json")]
    assert json.loads(reply.body if isinstance(reply.body, bytes) else b"") == {
        "object": "list",
        "data": [
            {
                "id": "me/big:latest",
                "object": "model",
                "created": 1767225600,
                "owned_by": "me",
                "nodes": ["r1"],
            },
            {**row, "nodes": ["tower"]},
        ],
    }


async def test_merged_answer_names_no_node_and_no_reason() -> None:
    bench = Bench(node("r1=h1"))
    bench.ollama.says = said([])

    reply = await bench.ask("/api/tags")

    assert reply.origin == Origin()
    assert reply.headers == [(b"Content-Type", b"application/json; charset=utf-8")]
    assert reply.body == b'{"models":[]}'


async def test_head_is_answered_with_what_get_would_say() -> None:
    bench = Bench(node("r1=h1", entry("big:latest")))
    bench.ollama.says = said([])

    head, get = await bench.ask("/api/tags", "HEAD"), await bench.ask("/api/tags")

    assert head.body == get.body
    assert [call.method for call in bench.ollama.calls] == ["GET", "GET"]


# ---------------------------------------------------------------- the local Ollama does not answer


@pytest.mark.parametrize(
    "says,word",
    [(REFUSED, "connect"), (None, "timeout"), (Reply(200, [], Broken()), "reset")],
    ids=["refused", "silent", "broken"],
)
async def test_silent_ollama_is_listed_as_it_is_known(
    says: Reply | Unavailable | None, word: str
) -> None:
    bench = Bench(node("r1=h1", entry("big:latest", 1)))
    give(bench.here, entry("tiny:latest", 2))
    bench.ollama.says = says

    reply = await bench.ask("/api/tags")

    assert isinstance(reply.body, bytes)
    assert [row["nodes"] for row in json.loads(reply.body)["models"]] == [["tower"], ["r1"]]
    assert reply.origin == Origin(reason="stale-list", fallback=word, attempts=(("tower", word),))


@pytest.mark.parametrize("body", [b"no list", b'{"models":7}'])
async def test_list_that_cannot_be_read_is_replaced_by_what_is_known(body: bytes) -> None:
    bench = Bench(node("r1=h1", entry("big:latest")))
    bench.ollama.says = Reply(200, [], body)

    reply = await bench.ask("/api/tags")

    assert reply.origin.reason == "stale-list"
    assert isinstance(reply.body, bytes)
    assert b"big:latest" in reply.body


async def test_failure_is_the_answer_where_nobody_knows_anything() -> None:
    bench = Bench(node("r1=h1"))

    with pytest.raises(AttemptsFailed) as caught:
        await bench.ask("/api/tags")

    assert caught.value is REFUSED


async def test_error_of_the_local_ollama_gives_way_to_what_is_known() -> None:
    bench = Bench(node("r1=h1", entry("big:latest")))
    bench.ollama.says = said([], 500)

    reply = await bench.ask("/api/tags")

    assert reply.status == 200
    assert reply.origin.reason == "stale-list"


async def test_error_of_the_local_ollama_passes_where_nobody_knows_anything() -> None:
    bench = Bench(node("r1=h1"))
    bench.ollama.says = said([], 500)

    reply = await bench.ask("/api/tags")

    assert reply.status == 500
    assert reply.headers == [(b"Content-Type", b"application/json")]
    assert reply.origin == Origin(node="tower", local=True)


@pytest.mark.parametrize("path", ["/", "/api/tags", "/api/version"])
async def test_refusal_of_the_local_ollama_passes_whatever_others_have(path: str) -> None:
    bench = Bench(node("r1=h1", entry("big:latest")))
    bench.ollama.says = Reply(403, [], b"", origin=Origin(node="tower", local=True))

    assert (await bench.ask(path)).status == 403


# ---------------------------------------------------------------- version and heartbeat


async def test_version_is_the_local_one_and_says_what_is_around_it() -> None:
    bench = Bench(node("r1=h1"), node("r2=h2"))
    bench.ollama.says = Reply(200, [], b'{"version":"0.34.0"}')

    reply = await bench.ask("/api/version")

    ours = f'{{"version":"{__version__}","nodes":3,"active":2}}'
    assert reply.body == f'{{"version":"0.34.0","distributed":{ours}}}'.encode()
    assert reply.headers == [(b"Content-Type", b"application/json; charset=utf-8")]


async def test_last_known_version_is_told_while_the_local_ollama_is_away() -> None:
    bench = Bench(node("r1=h1"))
    bench.here.inventory = replace(bench.here.inventory, version="0.33.0")

    reply = await bench.ask("/api/version")

    assert isinstance(reply.body, bytes)
    assert json.loads(reply.body)["version"] == "0.33.0"
    assert reply.origin.fallback == "connect"


async def test_version_that_was_never_known_is_not_invented() -> None:
    bench = Bench(node("r1=h1"))

    with pytest.raises(AttemptsFailed):
        await bench.ask("/api/version")


async def test_version_of_another_form_passes_as_it_came() -> None:
    bench = Bench(node("r1=h1"))
    bench.ollama.says = Reply(200, [], b"0.33.0")

    assert (await bench.ask("/api/version")).body == b"0.33.0"


async def test_heartbeat_is_the_local_one_while_it_answers() -> None:
    bench = Bench(node("r1=h1"))
    origin = Origin(node="tower", local=True)
    bench.ollama.says = Reply(200, [(b"X", b"y")], b"Ollama is running", origin=origin)

    reply = await bench.ask("/")

    assert (reply.headers, reply.origin) == ([(b"X", b"y")], origin)


async def test_heartbeat_is_ours_while_another_node_is_up() -> None:
    bench = Bench(node("r1=h1"))

    reply = await bench.ask("/", "HEAD")

    assert (reply.status, reply.body) == (200, b"Ollama is running")
    assert reply.headers == [(b"Content-Type", b"text/plain; charset=utf-8")]
    assert reply.origin == Origin(fallback="connect", attempts=(("tower", "connect"),))


@pytest.mark.parametrize("state", [NodeState.DOWN, NodeState.JOINING])
async def test_heart_stops_with_the_last_node_that_answers(state: NodeState) -> None:
    dead = node("r1=h1")
    dead.health = health(state)
    bench = Bench(dead)

    with pytest.raises(AttemptsFailed):
        await bench.ask("/")
