"""What the tests of the failure table share: two nodes that hold a model, and what a reply told."""

import json
from typing import Any

from ollama_wrap.testing import FakeOllama
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
SAYS = [{"role": "user", "content": "hi"}]
#: fields of a streamed request by path
STREAMS: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": SAYS},
    "/api/generate": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": SAYS, "stream": True},
    "/v1/completions": {"prompt": "hi", "stream": True},
    "/v1/messages": {"messages": SAYS, "stream": True, "max_tokens": 99},
    "/v1/responses": {"input": "hi", "stream": True},
}


def marker(path: str, word: str, request_id: str = "I") -> bytes:
    text = f"stream interrupted: {word}"
    if path.startswith("/api/"):
        return f'{{"error":"{text}","code":"{word}","request_id":"{request_id}"}}\n'.encode()
    if path == "/v1/messages":
        error = f'"error":{{"type":"api_error","message":"{text}"}}'
        return (
            f'event: error\ndata: {{"type":"error",{error},"request_id":"{request_id}"}}\n\n'
        ).encode()
    error = f'{{"message":"{text}","type":"api_error","param":null,"code":"{word}"}}'
    return f'data: {{"error":{error}}}\n\n'.encode()


def vanish(fake: FakeOllama) -> None:
    """The host is gone: what runs there falls silent, and nothing can be asked of it."""
    assert fake._server is not None
    fake._server.close()
    fake._server = None
    talking = {one.connection for one in fake.ledger.entries if one.path in STREAMS}
    for connection in list(fake._open):
        if connection.number not in talking:
            connection.reset()


def told(reply: RawReply) -> tuple[int, str | None, str | None, str | None]:
    """Status, node, reason of the fallback, and attempts."""
    reason = reply.header("x-ollama-fallback-reason")
    assert (reply.header("x-ollama-fallback") == "true") == bool(reason)
    node, attempts = reply.header("x-ollama-node"), reply.header("x-ollama-attempts")
    return reply.status, node, reason, attempts


def error(text: str) -> bytes:
    """An error as stock's native routes write it."""
    return json.dumps({"error": text}, separators=(",", ":")).encode()
