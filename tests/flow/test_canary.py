"""Nothing that was said, answered or shown as a key stands in a log or in a number."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.cluster import Cluster, Host, cluster, host
from tests.fakes.raw_http import Headers, request_bytes

ASKED, ANSWERED, KEY = "canary-asked", "canary-answered", "canary-key-0123456789-0123456789"
SAYS: list[dict[str, Any]] = [{"role": "user", "content": ASKED}]
TOKEN = "canary-token-0123456789-0123456789"
HOSTS: dict[str, Host] = {
    "local": host("tiny", registry=("*",)),
    "r1": host("big", entry=f"header=X-Secret:{KEY};priority=0"),
    "r2": host("big", entry="priority=1"),
}
SENT: Headers = [
    ("Authorization", f"Bearer {KEY}"),
    ("X-API-Key", KEY),
    ("Cookie", f"session={KEY}"),
]
#: what goes wrong at other nodes, and is told of in the log
WRONG: list[dict[str, Any]] = [
    {},
    {"status": 500, "body": json.dumps({"error": f"model said {ANSWERED}: out of memory"})},
    {"status": 503, "body": json.dumps({"error": f"server busy {ANSWERED}"})},
    {"raw": f"{ANSWERED} is no HTTP\r\n\r\n"},
    {"failure": "engine-dies"},
    {"cut_body_after": 200},
    {"length_off": 7},
    {"die_after": 2},
]


def bodies() -> Iterator[tuple[str, bytes]]:
    """Every route that takes words, and bodies that cannot be read."""
    said = {"prompt": ASKED, "messages": SAYS, "input": ASKED, "system": ASKED, "max_tokens": 9}
    for path in ("generate", "chat", "embed", "embeddings", "show", "create", "nope"):
        for model in ("tiny", "big", "nobodys", "far:cloud"):
            yield f"/api/{path}", json.dumps({"model": model, **said}).encode()
    for path in ("chat/completions", "completions", "embeddings", "responses", "messages"):
        for stream in (True, False):
            yield f"/v1/{path}", json.dumps({"model": "big", "stream": stream, **said}).encode()
    yield f"/api/chat?key={KEY}", f"{{broken {ASKED}".encode()
    yield "/api/pull", json.dumps({"model": "tiny", "password": KEY}).encode()
    yield "/api/push", json.dumps({"model": "tiny", "password": KEY}).encode()
    yield f"/api/blobs/sha256:{'0' * 64}", ASKED.encode()
    yield "/admin/mode", json.dumps({"mode": KEY}).encode()
    yield f"/api/distributed/status?token={KEY}", b""


async def everything(one: Cluster) -> None:
    for target, body in bodies():
        for more in ([], [("X-Dry-Run", "true")], [("X-Ollama-Force-Distributed", "r1")]):
            request = request_bytes("POST", target, body, [*SENT, *more, ("Connection", "close")])
            async with one.open(request) as talk:
                await talk.rest()


@pytest.mark.parametrize(
    "wrong", WRONG, ids=lambda wrong: str(next(iter(wrong.items()), "nothing"))[:20]
)
async def test_s74_no_word_and_no_key_is_written_down(wrong: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"admin_token": TOKEN, "queue": {"hold": "0"}}
    async with cluster(HOSTS, level="debug", check=False, **settings) as one:
        one.local.on(route="/api/[cge]*", say=ANSWERED, times=0)
        for node in ("r1", "r2"):
            one[node].on(route="/*/[cge]*", say=ANSWERED, times=0, **wrong)

        await everything(one)
        numbers = await one.get("/metrics")
        listed = await one.get("/api/distributed/nodes")
        await one.settled()
        one.lines()

    told = one.written.getvalue() + numbers.body.decode() + listed.body.decode()
    assert '"event":"routed"' in told.replace(": ", ":")
    assert [word for word in (ASKED, ANSWERED, KEY, TOKEN) if word in told] == []
