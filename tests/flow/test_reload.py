"""Settings that change while calls run: what holds from then on, and what goes on as it was."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from ollama_wrap.call import Mode
from ollama_wrap.config import Settings
from ollama_wrap.errors import ConfigError
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.names import canonical
from ollama_wrap.nodes.upstream import Upstream
from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import RawReply, request_bytes

TOKEN = "a token that is long enough to be a good one"
BEARER = [("Authorization", f"Bearer {TOKEN}")]
RARE = canonical("rare") or ""
STREAM = {"messages": [{"role": "user", "content": "hi"}]}


class Files:
    """What the settings files say, as a test writes them."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.problems: list[str] = []

    def load(self) -> Settings:
        if self.problems:
            raise ConfigError(self.problems)
        return self.settings

    def begin(self, one: Cluster) -> None:
        self.settings = one.runtime.settings

    def write(self, **changes: Any) -> None:
        """Change settings; those of groups as a mapping."""
        update = {
            name: getattr(self.settings, name).model_copy(update=value)
            if isinstance(value, Mapping)
            else value
            for name, value in changes.items()
        }
        self.settings = self.settings.model_copy(update=update)

    def nodes(self, one: Cluster, *nodes: str) -> None:
        """Declare these nodes, each an id with options behind it."""
        text = ",".join(
            ";".join([f"{name}={one[name].url}", *options])
            for name, *options in (node.split(";") for node in nodes)
        )
        self.write(nodes={"text": text})


@pytest.fixture
def files() -> Files:
    return Files()


def two(files: Files, **settings: Any) -> Any:
    """Our own Ollama, r1 and r2, and an admin."""
    hosts = {"r1": host("tiny", "big"), "r2": host("tiny", "big", "rare")}
    given = Settings.model_validate({"admin_token": TOKEN}).admin_token
    return cluster(hosts, load=files.load, admin_token=given, **settings)


async def reload(one: Cluster) -> RawReply:
    return await one.post("/admin/reload", BEARER)


async def reloaded(one: Cluster) -> dict[str, Any]:
    reply = await reload(one)
    assert reply.status == 200, reply.body
    shape: dict[str, Any] = json.loads(reply.body)
    return shape


def others(one: Cluster) -> list[str]:
    return [upstream.node.id for upstream in one.runtime.fleets.current.others]


# ---------------------------------------------------------------- nodes


async def test_node_that_left_is_asked_no_more_and_one_that_came_is(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        files.nodes(one, "r1")
        first = await reloaded(one)
        without = await one.chat("rare")
        files.nodes(one, "r1", "r2")
        second = await reloaded(one)
        await one.until(lambda: one.state("r2") is NodeState.UP)
        await one.until(lambda: one.upstream("r2").inventory.had(RARE))
        again = await one.chat("rare")

    assert first["changed"] == second["changed"] == ["nodes"]
    assert (without.status, again.status) == (404, 200)
    assert one.asked("/api/chat") == {"local": 1, "r2": 1}


async def test_answer_that_has_begun_at_a_node_that_leaves_is_finished(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        one["r2"].on(route="/api/chat", token_delay=0.05)
        leaving = one.upstream("r2")
        body = json.dumps({"model": "rare", **STREAM}).encode()
        async with one.open(request_bytes("POST", "/api/chat", body)) as talk:
            await talk.until(b"\r\n\r\n")
            files.nodes(one, "r1")
            await reloaded(one)
            during = one.runtime.fleets.leaving
            rest = await talk.until(b"0\r\n\r\n")
        await one.settled()

        assert b'"done":true' in rest
        assert during == (leaving,)
        assert one.runtime.fleets.leaving == ()
        assert others(one) == ["r1"]
        # Its connections are closed, and nobody watches it.
        assert set(one.runtime.pools._pools) <= {"tower", "r1"}
        assert not one.runtime.prober._parting


async def test_call_that_waits_at_a_node_that_leaves_moves_when_that_node_hangs(
    files: Files,
) -> None:
    async with two(files, routing={"mode": "remote-first"}) as one:
        files.begin(one)
        files.nodes(one, "r1;priority=1", "r2")
        await reloaded(one)
        one["r2"].on(route="/api/chat", delay=60)
        waiting = asyncio.ensure_future(one.chat("big"))
        await one.until(lambda: one.upstream("r2").in_flight == 1)
        files.nodes(one, "r1")
        await reloaded(one)

        one["r2"].on(route="/api/version", delay=60, times=0)
        one["r2"].on(route="/", delay=60, times=0)
        reply = await waiting

        assert reply.status == 200
        assert one["r1"].ledger.to("/api/chat")


async def test_what_was_learned_of_a_node_stays_while_its_declaration_changes(
    files: Files,
) -> None:
    async with two(files) as one:
        files.begin(one)
        await one.chat("rare")
        await one.settled()
        before = one.upstream("r2")
        before.learned(RARE, 3)
        latency, since = before.latency, before.health.since_wall

        files.nodes(one, "r1", "r2;weight=7;priority=3")
        files.write(health={"fall": 9}, circuit={"failures": 8})
        await reloaded(one)

        after = one.upstream("r2")
        assert after is before
        assert (after.node.weight, after.node.priority) == (7, 3)
        assert (after.latency, after.health.since_wall) == (latency, since)
        assert after.slots(RARE) == (3, False)
        assert after.inventory.had(RARE)
        assert (after.health.rules.fall, after.circuit.rules.failures) == (9, 8)


async def test_circuit_that_is_open_stays_open(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        broken = one.upstream("r1")
        for _ in range(3):
            broken.circuit = broken.circuit.failed(one.runtime.clock.monotonic())
        files.write(cache={"ttl": 7.0})
        files.nodes(one, "r1;weight=3", "r2")

        await reloaded(one)

        assert one.upstream("r1").obstacle(one.runtime.clock.monotonic()) == "circuit-open"


async def test_node_at_another_place_is_another_node_under_the_same_id(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        before = one.upstream("r2")
        files.write(nodes={"text": f"r1={one['r1'].url},r2={one['r1'].url}/x"})

        await reloaded(one)

        after = one.upstream("r2")
        assert after is not before
        assert isinstance(after, Upstream)
        assert after.latency is None


async def test_nodes_that_come_and_go_change_the_mode(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        files.write(nodes={"text": ""})
        await reloaded(one)
        alone = one.runtime.fleets.current.mode
        files.nodes(one, "r1")
        await reloaded(one)

        assert alone is Mode.LOCAL
        assert one.runtime.fleets.current.mode is Mode.DISTRIBUTED


# ---------------------------------------------------------------- whole, or not at all


async def test_settings_that_cannot_be_used_change_nothing_and_are_named(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        before = one.runtime.settings
        files.write(cache={"ttl": 1.0}, nodes={"text": "r1=ftp://h"}, routing={"routes": "x=r1;y"})

        reply = await reload(one)
        metrics = await one.get("/metrics")

        shape = json.loads(reply.body)
        assert (reply.status, shape["code"]) == (400, "BAD_REQUEST")
        assert [text.split(":")[0] for text in shape["details"]["problems"]] == [
            "OLLAMA_WRAP_NODES",
            "OLLAMA_WRAP_ROUTES",
        ]
        assert one.runtime.settings is before
        assert others(one) == ["r1", "r2"]
        assert b'ollama_wrap_reloads_total{result="refused"} 1.0' in metrics.body
        assert (await one.chat("rare")).status == 200


@pytest.mark.parametrize(
    "problem", ["node.yaml: cannot be read", "OLLAMA_WRAP_CACHE_TTL='never': write seconds"]
)
async def test_files_that_cannot_be_read_change_nothing(files: Files, problem: str) -> None:
    async with two(files) as one:
        files.begin(one)
        files.problems = [problem]

        reply = await reload(one)

        assert reply.status == 400
        assert json.loads(reply.body)["details"] == {"problems": [problem]}
        assert one.lines("settings are not reloaded: the old ones hold")


async def test_local_ollama_that_leads_back_here_is_refused(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        files.write(local={"address": one.url})

        reply = await reload(one)

        assert reply.status == 400
        assert "leads to this sidecar itself" in json.loads(reply.body)["error"]
        assert (await one.chat("tiny")).status == 200


async def test_local_ollama_may_move(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        files.write(local={"address": one["r2"].url}, nodes={"text": ""})
        await reloaded(one)
        await one.until(lambda: one.upstream("local").inventory.had(RARE))

        assert (await one.chat("rare")).status == 200
        assert one.asked("/api/chat") == {"r2": 1}


async def test_what_waits_for_a_restart_is_named_and_the_rest_holds(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        files.write(server={"node_id": "other", "drain": 7.0}, state={"store": "sqlite"})

        said = await reloaded(one)
        again = await reloaded(one)

        assert said["changed"] == ["server.drain"]
        assert said["restart"] == again["restart"] == ["server.node_id", "state.store"]
        assert again["changed"] == []
        assert one.runtime.settings.server.drain == 7.0
        assert one.runtime.settings.server.node_id == "tower"
        assert len(one.lines("settings that wait for a restart")) == 2


async def test_problems_of_the_start_are_gone_once_the_files_are_right(files: Files) -> None:
    async with two(files, routing={"routes": "x=r1;y"}) as one:
        files.begin(one)
        before = one.runtime.fleets.current.mode
        files.write(routing={"routes": ""})

        await reloaded(one)

        assert before is Mode.LOCAL
        assert one.runtime.problems == []
        assert one.runtime.fleets.current.mode is Mode.DISTRIBUTED


# ---------------------------------------------------------------- each part obeys


async def test_token_and_rights_change_for_heads_that_were_seen_before(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        foreign = [("Host", "evil.example")]
        refused = await one.get("/health", foreign), await one.get("/api/distributed/ping", foreign)
        browser = [("Origin", "https://pages.example")]
        page = await one.get("/api/tags", browser)
        token = Settings.model_validate({"admin_token": "another one of good length, too"})
        files.write(
            admin_token=token.admin_token,
            allowed_hosts=("evil.example",),
            origins=("https://pages.example",),
        )
        await reloaded(one)

        allowed = await one.get("/api/distributed/ping", foreign)
        page_now = await one.get("/api/tags", browser)
        old_token = await reload(one)

        assert [reply.status for reply in refused] == [200, 403]
        assert (allowed.status, old_token.status) == (200, 401)
        assert (page.status, page_now.status) == (403, 200)


async def test_limits_of_clients_change_for_connections_that_are_open(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        async with one.open(request_bytes("GET", "/api/version")) as talk:
            before = await talk.reply("GET")
            files.write(client={"max_fields": 2})
            await reloaded_quietly(one)
            talk.writer.write(request_bytes("GET", "/api/version", b"", [("A", "1"), ("B", "2")]))
            after = await talk.reply("GET")

        assert (before.status, after.status) == (200, 431)


async def reloaded_quietly(one: Cluster) -> None:
    """As SIGHUP does: without a request that limits could refuse."""
    assert one.runtime.reload is not None
    await one.runtime.reload()


async def test_deadlines_of_nodes_hold_for_new_calls_and_not_for_those_under_way(
    files: Files,
) -> None:
    async with cluster(load=files.load) as one:
        files.begin(one)
        one.local.on(route="/api/chat", delay=0.6, times=0)
        slow = asyncio.ensure_future(one.chat("tiny"))
        await one.until(lambda: one.upstream("local").in_flight == 1)
        files.write(upstream={"first_byte": 0.2})
        await reloaded_quietly(one)

        late = await one.chat("tiny")

        assert late.status == 504
        assert (await slow).status == 200


async def test_choice_holds_until_the_setting_behind_it_changes(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        await one.post("/admin/mode", BEARER, mode="local")
        await one.post("/admin/fallback", BEARER, enabled=False)
        files.write(cache={"ttl": 9.0})
        await reloaded(one)
        kept = one.runtime.fleets.current.mode, one.runtime.choices.fallback

        files.write(distributed=True)
        await reloaded(one)

        assert kept == (Mode.LOCAL, False)
        assert one.runtime.fleets.current.mode is Mode.DISTRIBUTED
        assert one.runtime.choices.fallback is False
        await one.until(lambda: not one.runtime.store._entries.keys() & {"choice:mode"})


async def test_settings_that_a_program_gave_cannot_be_read_anew() -> None:
    given = Settings.model_validate({"admin_token": TOKEN}).admin_token
    async with cluster(admin_token=given) as one:
        reply = await reload(one)

    assert (reply.status, json.loads(reply.body)["code"]) == (409, "CONFLICT")


async def test_reload_takes_the_token_and_no_body(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        without = await one.post("/admin/reload")
        told = await one.post("/admin/reload", BEARER, cache={"ttl": 1})

        assert (without.status, told.status) == (401, 400)


# ---------------------------------------------------------------- under traffic


async def test_no_call_notices_a_hundred_reloads_a_third_of_them_invalid(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        stop, statuses = asyncio.Event(), list[int]()

        async def client(model: str, *, stream: bool) -> None:
            while not stop.is_set():
                reply = await one.chat(model, stream=stream)
                statuses.append(reply.status if reply.clean_end or not stream else 0)

        clients = [
            asyncio.ensure_future(client(model, stream=stream))
            for model in ("tiny", "big")
            for stream in (True, False)
        ]
        for turn in range(100):
            files.problems = ["no"] if turn % 3 == 2 else []
            files.nodes(one, f"r1;weight={turn + 1}", *(["r2"] if turn % 2 else []))
            files.write(upstream={"connect": 2.0 + turn % 5}, cache={"ttl": 60.0 + turn})
            if turn % 3 == 2:
                with pytest.raises(ConfigError):
                    await reloaded_quietly(one)
            else:
                await reloaded_quietly(one)
            await asyncio.sleep(0)
        stop.set()
        await asyncio.gather(*clients)

        assert len(statuses) > 20
        assert set(statuses) == {200}
        changed = one.runtime.fleets.changed._callbacks
        # Whoever was replaced listens no more.
        assert len(changed) < 20


async def test_entry_that_leads_back_here_stays_left_out_and_is_said_once(files: Files) -> None:
    async with two(files) as one:
        files.begin(one)
        said = "this node is this sidecar itself; it is left out"
        me = f"me={one.url}"
        files.write(nodes={"text": f"{me},r1={one['r1'].url}"})
        await reloaded(one)
        await one.until(lambda: others(one) == ["r1"])
        files.write(nodes={"text": f"{me},r1={one['r1'].url};weight=5"})
        await reloaded(one)
        at_once = others(one)
        await asyncio.sleep(0.3)

        assert at_once == others(one) == ["r1"]
        assert len(one.lines(said)) == 1
        assert (await one.chat("big")).status == 200


async def test_connections_to_nodes_are_kept_unless_they_would_be_made_otherwise(
    files: Files,
) -> None:
    async with two(files) as one:
        files.begin(one)
        await one.chat("tiny")
        pools = one.runtime.pools._pools
        before = pools["tower"][1]
        files.write(cache={"ttl": 3.0})
        await reloaded(one)
        kept = pools["tower"][1]
        files.write(upstream={"connect_local": 3.0})
        await reloaded(one)
        await one.chat("tiny")

        assert kept is before
        assert pools["tower"][1] is not before
        assert not before.idle
        assert pools["tower"][1].target.connect == 3.0
