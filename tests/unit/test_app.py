"""What is built from settings, and the ASGI application made of it."""

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ollama_wrap import create_app, tasks
from ollama_wrap.app import application, build
from ollama_wrap.call import Mode
from ollama_wrap.config import Settings
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.nodes.node import NodeKind
from ollama_wrap.runtime import Runtime
from ollama_wrap.state.memory import MemoryStore
from tests.fakes.clock import FakeClock, settle

Message = MutableMapping[str, Any]
NOBODY = "http://127.0.0.1:1"


def settings(**given: Any) -> Settings:
    base = {
        "local": {"address": NOBODY},
        "state": {"store": "memory"},
        "server": {"node_id": "tower", "listen": "127.0.0.1:11434"},
    }
    return Settings.model_validate(base | given)


def made(**given: Any) -> Runtime:
    return build(settings(**given), FakeClock())


# ---------------------------------------------------------------- what is built


def test_local_ollama_and_nodes_make_the_fleet() -> None:
    fleet = made(nodes={"text": "r1=http://h1,r2=https://h2;kind=sglang"}, num_parallel=3).fleets

    local, *others = (one.node for one in fleet.current.upstreams)
    assert (local.id, local.address, local.slots, local.local) == ("tower", NOBODY, 3, True)
    assert [(one.id, one.kind) for one in others] == [
        ("r1", NodeKind.OLLAMA),
        ("r2", NodeKind.SGLANG),
    ]
    assert fleet.current.mode is Mode.DISTRIBUTED


@pytest.mark.parametrize(
    "given",
    [
        {"nodes": {"text": "r1=ftp://h1"}},
        {"nodes": {"text": "r1=http://h1"}, "routing": {"routes": "gpt*=r1;weight=0"}},
    ],
)
def test_what_cannot_be_used_is_said_and_does_not_keep_it_from_starting(
    given: dict[str, Any],
) -> None:
    runtime = made(**given)

    assert len(runtime.problems) == 1
    assert isinstance(runtime.store, MemoryStore)


async def test_store_that_cannot_be_opened_takes_no_choice_that_a_restart_would_lose() -> None:
    runtime = made(state={"store": "redis://nowhere"}, nodes={"text": "r1=http://h1"})
    await runtime._load()

    with pytest.raises(StoreUnavailable, match="OLLAMA_WRAP_STORE"):
        await runtime.choices.choose_mode(Mode.DISTRIBUTED)

    assert (runtime.store_kind, len(runtime.problems)) == ("redis", 1)
    assert runtime.fleets.current.mode is Mode.LOCAL


def test_store_of_the_settings_is_the_one_in_use(tmp_path: Path) -> None:
    runtime = made(state={"store": "sqlite", "dir": tmp_path})

    assert (runtime.store_kind, runtime.problems) == ("sqlite", [])
    assert not isinstance(runtime.store, MemoryStore)


def test_node_that_is_this_sidecar_is_left_out() -> None:
    runtime = made(nodes={"text": "me=http://h1,r2=http://h2"})
    watch = runtime.prober._around

    watch.found("me")

    assert [one.node.id for one in runtime.fleets.current.others] == ["r2"]


def test_two_processes_are_told_apart() -> None:
    assert made().boot != made().boot


def test_door_knows_nodes_and_listeners_by_name() -> None:
    rules = made(nodes={"text": "r1=http://h1.lan"}, allowed_hosts=("my.example",)).door.rules

    assert rules.listeners == ("127.0.0.1:11434",)
    assert rules.node_hosts == {"h1.lan"}
    assert rules.allowed_hosts == {"my.example"}
    assert rules.local_loopback


@pytest.mark.parametrize(
    "address, loopback",
    [("http://127.0.0.9:1", True), ("http://[::1]:1", True), ("http://10.0.0.7:1", False)],
)
def test_door_knows_whether_our_own_ollama_is_on_loopback(address: str, loopback: bool) -> None:
    assert made(local={"address": address}).door.rules.local_loopback is loopback


def test_nodes_and_listed_proxies_may_have_any_number_of_connections() -> None:
    network = ipaddress.ip_network("10.1.0.0/16")
    runtime = made(nodes={"text": "r1=http://h1"}, trusted_proxies=(network,))
    runtime.fleets.current.others[0].addresses = ("10.0.0.7",)

    trusted = runtime.guard._trusted

    assert trusted("10.0.0.7")
    assert trusted("10.1.2.3")
    assert not trusted("10.2.0.1")


# ---------------------------------------------------------------- the application


class Served:
    """Asks an application as a server does, its lifespan begun."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def get(self, path: str) -> tuple[int, bytes]:
        sent: list[Message] = []
        coming = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Message:
            if coming:
                return coming.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(
            {
                "type": "http",
                "http_version": "1.1",
                "method": "GET",
                "path": path,
                "raw_path": path.encode(),
                "query_string": b"",
                "root_path": "",
                "headers": [(b"host", b"localhost:11434")],
                "client": ("127.0.0.1", 50000),
                "server": ("127.0.0.1", 11434),
            },
            receive,
            send,
        )
        body = b"".join(message.get("body", b"") for message in sent)
        return sent[0]["status"], body


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Served]:
    """The lifespan around it, as the ASGI specification has it."""
    coming: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    coming.put_nowait({"type": "lifespan.startup"})
    life = asyncio.ensure_future(app({"type": "lifespan"}, coming.get, sent.put))
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    try:
        yield Served(app)
    finally:
        coming.put_nowait({"type": "lifespan.shutdown"})
        assert (await sent.get())["type"] == "lifespan.shutdown.complete"
        await life


async def test_application_answers_for_itself_and_passes_the_rest_on() -> None:
    before = tasks.running()

    async with serving(create_app(settings())) as app:
        status, body = await app.get("/api/distributed/status")
        assert (status, json.loads(body)["node_id"]) == (200, "tower")
        status, body = await app.get("/api/tags")
        assert (status, json.loads(body).keys()) == (503, {"error"})
        assert (await app.get("/admin/nothing"))[0] == 503

    await settle()
    assert tasks.running() == before


async def test_application_asks_its_nodes_only_while_it_is_served() -> None:
    runtime = build(settings())
    served = application(runtime)
    assert not runtime.prober.first_round.is_set()

    async with serving(served):
        async with asyncio.timeout(5):
            await runtime.prober.first_round.wait()
        status, body = await Served(served).get("/health/ready")

    assert status == 200, body
