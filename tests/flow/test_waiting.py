"""Busy nodes: who goes elsewhere, who waits here, for how long, and whose turn it is."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes.cluster import Cluster, Host, cluster, host
from tests.fakes.raw_http import RawReply
from tests.flow.rows import BIG, told

#: two nodes whose slots are declared: calls may wait here
DECLARED = {
    "local": host("other"),
    "r1": host("big", entry="priority=0;slots=1"),
    "r2": host("big", entry="priority=1;slots=1"),
}


def slow(one: Cluster, seconds: float, *nodes: str) -> None:
    for node in nodes:
        one[node].on(route="/api/chat", prompt_delay=seconds, times=0)


def chat(one: Cluster, caller: str = "", **headers: str) -> "asyncio.Task[RawReply]":
    given = [(name.replace("_", "-"), value) for name, value in headers.items()]
    if caller:
        given.append(("Authorization", f"Bearer {caller}"))
    return asyncio.ensure_future(one.chat("big", given))


def waiting(one: Cluster) -> int:
    return one.runtime.metrics.totals().waiting


def started(one: Cluster) -> int:
    return sum(one.asked("/api/chat").values())


async def fill(one: Cluster) -> "list[asyncio.Task[RawReply]]":
    """Both nodes run a call."""
    running = [chat(one), chat(one)]
    await one.until(lambda: started(one) == 2)
    return running


async def test_call_for_a_busy_node_goes_to_a_free_one() -> None:
    hosts = {"local": host("big"), "r1": host("big")}
    async with cluster(hosts) as one:
        slow(one, 0.3, "local")
        first = chat(one)
        await one.until(lambda: started(one) == 1)

        second = await chat(one)

        assert told(second) == (200, "r1", None, None)
        assert second.header("x-ollama-route-reason") == "busy"
        assert told(await first)[:2] == (200, "tower")


async def test_call_waits_here_while_all_are_busy_and_moves_to_who_is_free_first() -> None:
    async with cluster(DECLARED) as one:
        slow(one, 2.0, "r1")
        slow(one, 0.3, "r2")
        running = await fill(one)

        third = chat(one)
        await one.until(lambda: waiting(one) == 1)

        assert told(await third) == (200, "r2", None, None)
        assert one.asked("/api/chat") == {"r1": 1, "r2": 2}
        assert one["r2"].ledger.counts.max_running == 1
        await asyncio.gather(*running)


@pytest.mark.parametrize(
    "hosts",
    [
        {"local": host("other"), "r1": host("big", entry="slots=1")},
        {"local": host("other"), "r1": host("big", entry="slots=1"), "r2": host("big")},
    ],
    ids=["one candidate", "slots not declared"],
)
async def test_call_that_could_not_move_does_not_wait_here(hosts: Mapping[str, Host]) -> None:
    async with cluster(hosts) as one:
        slow(one, 0.3, *(node for node in hosts if node != "local"))

        calls = [chat(one) for _ in range(4)]
        await one.until(lambda: started(one) == 4)

        assert waiting(one) == 0
        assert {(await reply).status for reply in calls} == {200}


async def test_nobody_waits_here_in_standalone() -> None:
    async with cluster({"local": host("big"), "r1": host("big")}, standalone=True) as one:
        slow(one, 0.3, "local")

        calls = [chat(one) for _ in range(3)]

        await one.until(lambda: one.asked("/api/chat") == {"local": 3})
        assert {(await reply).status for reply in calls} == {200}


async def test_show_does_not_wait_for_a_place() -> None:
    async with cluster(DECLARED) as one:
        slow(one, 0.5, "r1", "r2")
        running = await fill(one)

        shown = await one.post("/api/show", model="big")

        assert shown.status == 200
        assert not any(task.done() for task in running)
        await asyncio.gather(*running)


async def test_low_priority_waits_behind_the_others() -> None:
    async with cluster(DECLARED) as one:
        slow(one, 0.2, "r1", "r2")
        running = await fill(one)
        order: list[str] = []
        for name, headers in (("low", {"X_Ollama_Priority": "low"}), ("usual", {}), ("more", {})):
            task = chat(one, caller=name, **headers)
            task.set_name(name)
            task.add_done_callback(lambda done: order.append(done.get_name()))
            running.append(task)
            await one.until(lambda: waiting(one) == len(running) - 2)

        await asyncio.gather(*running)

        assert order[2] == "low"
        assert sorted(order[:2]) == ["more", "usual"]


async def test_call_of_another_sidecar_does_not_wait_here() -> None:
    hosts = {"local": host("big"), "r1": host("big", entry="slots=1")}
    async with cluster(hosts, num_parallel=1) as one:
        slow(one, 0.3, "local", "r1")
        running = await fill(one)

        passed_on = chat(one, X_Ollama_Hop="1")

        await one.until(lambda: one.asked("/api/chat") == {"local": 2, "r1": 1})
        assert waiting(one) == 0
        await asyncio.gather(passed_on, *running)


async def test_call_that_has_waited_long_enough_is_sent_on() -> None:
    """Row 5."""
    async with cluster(DECLARED, queue={"hold": 0.1}) as one:
        slow(one, 0.5, "r1", "r2")
        running = await fill(one)

        third = chat(one)
        await one.until(lambda: waiting(one) == 1)
        await one.until(lambda: started(one) == 3, 0.3)

        assert (waiting(one), third.done()) == (0, False)
        assert (await third).status == 200
        await asyncio.gather(*running)


async def test_call_that_finds_the_queue_full_is_sent_on() -> None:
    """Row 5."""
    async with cluster(DECLARED, queue={"per_key": 1}) as one:
        slow(one, 0.3, "r1", "r2")
        running = await fill(one)

        calls = [chat(one), chat(one)]
        await one.until(lambda: started(one) == 3)

        assert waiting(one) == 1
        assert {(await reply).status for reply in [*running, *calls]} == {200}


async def test_deadline_that_passes_while_a_call_waits_here_is_a_503() -> None:
    """Row 6."""
    async with cluster(DECLARED) as one:
        slow(one, 0.5, "r1", "r2")
        running = await fill(one)

        late = await chat(one, X_Ollama_Timeout_Ms="100")

        assert late.status == 503
        assert int(late.header("retry-after") or 0) >= 1
        assert "deadline" in json.loads(late.body)["error"]
        assert started(one) == 2
        await asyncio.gather(*running)


async def test_deadline_that_passes_at_a_node_frees_it() -> None:
    async with cluster({"local": host("big")}) as one:
        slow(one, 2.0, "local")

        late = await chat(one, X_Ollama_Timeout_Ms="100")

        assert (late.status, late.header("retry-after")) == (504, None)
        seen = one.local.ledger
        await one.until(lambda: seen.counts.generations_cancelled == 1, 0.25)


async def test_turns_go_round_between_callers() -> None:
    async with cluster(DECLARED) as one:
        slow(one, 0.15, "r1", "r2")
        running = await fill(one)
        order: list[str] = []

        def call(caller: str) -> "asyncio.Task[RawReply]":
            task = chat(one, caller)
            task.add_done_callback(lambda _: order.append(caller))
            return task

        calls = []
        for caller in "aaaab":
            calls.append(call(caller))
            await one.until(lambda: waiting(one) == len(calls))
        await asyncio.gather(*running, *calls)

        assert "b" in order[:2]


async def test_call_waits_no_longer_when_a_node_comes_back() -> None:
    async with cluster(DECLARED | {"r3": host("big", entry="slots=1;priority=2")}) as one:
        slow(one, 1.5, "r1", "r2")
        one["r3"].die()
        await one.until(lambda: not one.upstream("r3").available(0.0))
        running = await fill(one)
        third = chat(one)
        await one.until(lambda: waiting(one) == 1)

        await one["r3"].start()

        assert told(await third)[:2] == (200, "r3")
        assert not any(one.done() for one in running)
        await asyncio.gather(*running)


async def test_queue_of_one_model_does_not_hold_up_another() -> None:
    hosts = {
        "local": host("other"),
        "r1": host("big", "small", entry="slots=1"),
        "r2": host("big", "small", entry="slots=1"),
    }
    async with cluster(hosts) as one:
        slow(one, 0.6, "r1", "r2")
        running = await fill(one)
        held = chat(one)
        await one.until(lambda: waiting(one) == 1)

        reply = await one.chat("small")

        assert reply.status == 200
        assert not held.done()
        await asyncio.gather(held, *running)


async def test_node_that_streams_two_answers_at_a_time_has_two_slots() -> None:
    fast: dict[str, Any] = {"num_parallel": 2, "token_delay": 0.05, "say": "a b c d e f g h i j"}
    async with cluster({"local": host("other"), "r1": host("big", **fast)}) as one:
        streams = [asyncio.ensure_future(one.chat("big", stream=True)) for _ in range(2)]

        assert all([(await reply).clean_end for reply in streams])
        await one.settled()

        assert one.upstream("r1").slots(BIG) == (2, False)


async def test_node_that_answers_one_after_the_other_has_one_slot() -> None:
    steady: dict[str, Any] = {"token_delay": 0.05, "say": "a b c d e f g h i j"}
    async with cluster({"local": host("other"), "r1": host("big", **steady)}) as one:
        streams = [asyncio.ensure_future(one.chat("big", stream=True)) for _ in range(3)]

        assert all([(await reply).clean_end for reply in streams])
        await one.settled()

        assert one.upstream("r1").slots(BIG) == (1, False)
