"""One ended request, to be varied by the tests of this folder."""

from typing import Any

from msgspec.structs import replace

from ollama_wrap.observe.ended import Ended

CHAT = Ended(
    id="req-1",
    method="POST",
    path="/api/chat",
    operation="chat",
    model="llama3:latest",
    node="r2",
    reason="busy",
    fallback="connect",
    attempts=(("r1", "connect"), ("r2", "ok")),
    status=200,
    bytes_out=512,
    tokens=11,
    first_byte=0.5,
    duration=2.5,
    error=None,
    prompt_tokens=7,
    streamed=True,
)


def ended(**changes: Any) -> Ended:
    return replace(CHAT, **changes)
