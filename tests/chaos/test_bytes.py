"""Connections and bytes that break: C6, C7, C8."""

import asyncio
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.faults import Fault
from tests.chaos.figures import Run
from tests.chaos.programs import ask
from tests.chaos.stage import Stage, host, stage
from tests.chaos.traffic import STREAMS, WHOLES, Form, Told

CHAT, WHOLE = STREAMS[0], WHOLES[0]
#: the other nodes first, so that r1 is asked before all others
REMOTE = {"OLLAMA_WRAP_ROUTING": "remote-first", "OLLAMA_WRAP_CIRCUIT_FAILURES": "1000"}
REMOTE |= {"OLLAMA_WRAP_CIRCUIT_SHARE": "1", "OLLAMA_WRAP_HEALTH_WARMING": "0"}


async def trusted(on: Stage, node: str) -> None:
    """A node is up again, so that it is asked first."""
    await on.side.until(node, "up", seconds=10)


async def test_c7_answer_is_reset_after_some_bytes(run: Run, tmp_path: Path) -> None:
    hosts = {"r1": host("tiny,only", proxied=True)}
    async with stage(run, tmp_path, hosts, REMOTE) as on:
        wrong: list[str] = []
        end, turns = time.monotonic() + run.seconds, 0
        head = {form: await _head(on, form) for form in (CHAT, WHOLE)}
        while turns == 0 or (run.full and time.monotonic() < end and turns < 50):
            turns += 1
            for form in (CHAT, WHOLE):
                cuts = (0, 1, head[form] - 1, head[form], head[form] + 1)
                for cut in cuts:
                    wrong += await _cut_early(on, form, cut, begun=cut > head[form])
                wrong += await _cut_late(on, form, head[form])
            wrong += await _cut_once(on)
        run.none("rows that were not kept", wrong)
        run.seen("cuts", turns * 13)


async def _head(on: Stage, form: Form) -> int:
    """The length of the head that r1 answers with, as the proxy sees it."""
    on.proxies["r1"].fault = Fault()
    told = await on.client.ask(form)
    assert (told.node, told.good) == ("r1", True), told
    # The node writes down what it sent after the client has it.
    await on.settled()
    seen = [one for one in on.inferred() if one.mark == told.mark]
    body = len(told.reply.body)
    if form.stream:
        body += sum(len(b"%x" % len(chunk)) + 4 for chunk in told.reply.chunks) + 5
    return seen[0].sent - body


async def _cut_early(on: Stage, form: Form, cut: int, *, begun: bool) -> list[str]:
    """Before the first byte of the body another node answers, and nobody sees it."""
    await trusted(on, "r1")
    on.proxies["r1"].fault = Fault(reset=cut)
    told = await on.client.ask(form)
    on.proxies["r1"].fault = Fault()
    # A body of known length begins with the byte after its head, a chunked one after its size.
    if begun and not form.stream:
        broken = not told.reply.clean_end and told.node == "r1"
        return [] if broken else [f"{cut} bytes: {told}"]
    wanted = (told.good, told.node, told.attempts[:1]) == (True, "tower", ("r1:reset",))
    return [] if wanted else [f"{cut} bytes: {told}"]


async def _cut_late(on: Stage, form: Form, head: int) -> list[str]:
    """After three chunks: a stream gets the marker, a whole answer its unclean end."""
    await trusted(on, "r1")
    on.proxies["r1"].fault = Fault(reset=head + (330 if form.stream else 100))
    told = await on.client.ask(form)
    on.proxies["r1"].fault = Fault()
    if form.stream:
        return [] if told.marked and told.node == "r1" else [f"three chunks: {told}"]
    cut = told.node == "r1" and not told.reply.clean_end and b"interrupted" not in told.reply.body
    return [] if cut else [f"100 bytes of a whole answer: {told}"]


async def _cut_once(on: Stage) -> list[str]:
    """What changes a node is not tried again: 502, and one request."""
    proxy = on.proxies["r1"]
    await trusted(on, "r1")
    before = len([one for one in on.seen() if one.path == "/api/copy"])
    proxy.fault = Fault(reset=0)
    body = b'{"source":"only","destination":"only-%d"}' % before
    reply = await ask(("127.0.0.1", on.side.port), "POST", "/api/copy", body)
    proxy.fault = Fault()
    times = len([one for one in on.seen() if one.path == "/api/copy"]) - before
    said = b"outcome unknown" in reply.body
    return [] if (reply.status, said, times) == (502, True, 1) else [f"once: {times} {reply}"]


@dataclass(frozen=True, slots=True)
class Bent:
    """One fault in the bytes of an answer: what the fake does, and what must come of it."""

    name: str
    rule: dict[str, Any]
    form: Form
    #: "other": another node answers; "cut": a broken end; "late": one after the last word;
    #: "whole": all of it; "short": as much as was announced
    becomes: str


BENT = (
    Bent("first chunk unreadable", {"break_chunk": 0}, CHAT, "other"),
    Bent("third chunk unreadable", {"break_chunk": 2}, CHAT, "cut"),
    Bent("truncated chunk", {"cut_body_after": 400, "cut_how": "fin"}, CHAT, "cut"),
    Bent("no last chunk", {"drop_last_chunk": True, "cut_how": "fin"}, CHAT, "late"),
    Bent("length one too long", {"length_off": 1}, WHOLE, "cut"),
    Bent("length one too short", {"length_off": -1}, WHOLE, "short"),
    Bent("two answers in one", {"twice": True}, WHOLE, "whole"),
    Bent("no HTTP", {"raw": "garbage"}, CHAT, "other"),
    Bent("an upgrade", {"raw": "switch"}, CHAT, "other"),
    Bent("a head without end", {"raw": "huge-header"}, WHOLE, "other"),
    Bent("a split field", {"raw": "split-header"}, WHOLE, "other"),
    Bent("no status", {"raw": "bad-status"}, WHOLE, "other"),
    Bent("two lengths", {"raw": "two-lengths"}, WHOLE, "other"),
    Bent("1,000 early hints", {"informational": 1000}, WHOLE, "other"),
)


@pytest.mark.chaos
async def test_c8_answers_with_broken_framing(run: Run, tmp_path: Path) -> None:
    async with stage(run, tmp_path, {"r1": host()}, REMOTE) as on:
        on.bent = {"r1"}
        wrong: list[str] = []
        end = time.monotonic() + run.seconds
        count = 0
        for bent in itertools.cycle(BENT):
            if count >= len(BENT) and (time.monotonic() > end or count > 1000):
                break
            count += 1
            wrong += await _bent(on, bent)
        run.none("faults that were not handled", wrong)
        run.seen("answers bent", count)


async def _bent(on: Stage, bent: Bent) -> list[str]:
    await trusted(on, "r1")
    # A connection that was used, so that it could be used again.
    before = await on.client.ask(WHOLE)
    await on["r1"].tell({"route": "/api/chat", **bent.rule})
    told = await on.client.ask(bent.form)
    after = await on.client.ask(WHOLE)
    used = {one.mark: one.connection for one in on.inferred() if one.node == "r1"}
    found = [] if _becomes(told, bent.becomes) else [f"{bent.name}: {told}"]
    if not (before.good and after.good):
        found.append(f"{bent.name}: the requests around it failed: {after}")
    if told.mark in used and used.get(after.mark) == used[told.mark]:
        found.append(f"{bent.name}: its connection was used again")
    return found


def _becomes(told: Told, wanted: str) -> bool:
    if wanted == "other":
        return told.good and told.node == "tower"
    if wanted == "whole":
        return told.good and told.node == "r1"
    if told.node != "r1":
        return False
    if wanted == "short":
        return told.reply.clean_end and told.reply.body[-1:] != b"}" and not told.good
    if wanted == "late":
        return b"stream interrupted" in told.reply.body and not told.reply.clean_end
    return told.marked if told.form.stream else not told.reply.clean_end


@pytest.mark.chaos
async def test_c6_pooled_connections_that_are_known_no_more(run: Run, tmp_path: Path) -> None:
    many = 1000
    hosts = {
        "local": host("other"),
        "r1": host(proxied=True, num_parallel=2000, token_delay=0.1),
    }
    async with stage(run, tmp_path, hosts, REMOTE) as on:
        await on.client.keep(many / 1000, 1000, [WHOLE])
        await on.client.done()
        pooled = on.proxies["r1"].open
        on.proxies["r1"].fault = Fault(rebooted=True)
        at = len(on.client.told)
        await on.client.keep(many / 1000, 1000, [WHOLE])
        copies = [
            ask(("127.0.0.1", on.side.port), "POST", "/api/copy", _copy(number))
            for number in range(10)
        ]
        replies = await asyncio.gather(*copies)
        await on.client.done()
        later = on.client.told[at:]
        run.least("idle connections in the pool", pooled, many * 0.9)
        run.none("failed on first use", [one for one in on.client.told if not one.good])
        run.none("sent to another node", [one for one in later if one.node != "r1"])
        run.none("ONCE requests that failed", [one for one in replies if one.status != 200])


def _copy(number: int) -> bytes:
    return b'{"source":"tiny","destination":"copy-%d"}' % number
