"""What the tests of the failure table share: two nodes that hold a model, and what a reply told."""

import json

from tests.fakes.cluster import host
from tests.fakes.nodes import key
from tests.fakes.raw_http import RawReply

#: r1 is asked first and r2 after it; both hold `big` in the same build, our own Ollama does not
PAIR = {
    "local": host("other"),
    "r1": host("big", entry="priority=0"),
    "r2": host("big", entry="priority=1"),
}
ALONE = {"local": host("other"), "r1": host("big")}
BIG = key("big")


def told(reply: RawReply) -> tuple[int, str | None, str | None, str | None]:
    """Status, node, reason of the fallback, and attempts."""
    reason = reply.header("x-ollama-fallback-reason")
    assert (reply.header("x-ollama-fallback") == "true") == bool(reason)
    node, attempts = reply.header("x-ollama-node"), reply.header("x-ollama-attempts")
    return reply.status, node, reason, attempts


def error(text: str) -> bytes:
    """An error as stock's native routes write it."""
    return json.dumps({"error": text}, separators=(",", ":")).encode()
