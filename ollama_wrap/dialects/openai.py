"""The OpenAI routes of stock: their errors, the end of their event streams.

Shapes are those of stock's openai/openai.go and middleware/openai.go. It must not
know the other dialects.
"""

import re
from typing import Final

from ollama_wrap.call import Header, Kind
from ollama_wrap.dialects import sse
from ollama_wrap.dialects.base import Ending, Route
from ollama_wrap.dialects.gojson import quoted


def _infer(operation: str) -> Route:
    return Route(Kind.INFER, operation, "openai", reads_body=True, repeatable=True)


ROUTES: Final = {
    ("GET", "/v1/models"): Route(Kind.LIST, "models", "openai", repeatable=True),
    ("POST", "/v1/chat/completions"): _infer("chat-completions"),
    ("POST", "/v1/completions"): _infer("completions"),
    ("POST", "/v1/embeddings"): _infer("openai-embeddings"),
    ("POST", "/v1/responses"): _infer("responses"),
    ("POST", "/v1/audio/transcriptions"): _infer("transcriptions"),
}
_TYPES = {400: "invalid_request_error", 404: "not_found_error"}
# At the start of a line, or as the last key of an event whose start is out of sight.
_ended = re.compile(
    rb"\nevent: response\.(completed|incomplete|failed)\n"
    rb'|"type":\s*"response\.(completed|incomplete|failed)"\}\s*$'
)


class OpenAI:
    """Server-sent events that end in `[DONE]`, and `{"error": {…}}`."""

    name = "openai"

    def error(self, status: int, text: str, request_id: str) -> tuple[list[Header], bytes]:
        body = _error(text, _TYPES.get(status, "api_error"), "null") + "\n"
        return [(b"Content-Type", b"application/json")], body.encode()

    def marker(self, reason: str, request_id: str, tail: bytes) -> bytes:
        text = _error(f"stream interrupted: {reason}", "api_error", quoted(reason))
        return sse.gap(tail) + f"data: {text}\n\n".encode()

    def ending(self, operation: str, streamed: bool, tail: bytes) -> Ending:  # noqa: FBT001
        """`[DONE]`, `response.completed`, or a whole object where nothing was streamed.

        A runner that dies leaves one more chunk whose `model` is empty, and no `[DONE]`.
        """
        prompt, tokens = sse.usage(tail)
        if operation == "transcriptions":
            return Ending(bool(tail), failed=False)
        if not streamed:
            return Ending(
                tail.rstrip().endswith(b"}"), failed=False, prompt_tokens=prompt, tokens=tokens
            )
        if operation == "responses":
            event = _ended.search(tail) if tail.rstrip().endswith(b"}") else None
            word = event[1] or event[2] if event else b""
            return Ending(word in (b"completed", b"incomplete"), word == b"failed", prompt, tokens)
        text = tail.rstrip()
        done = text.endswith(b"data: [DONE]")
        last = text[text.rfind(b"\n") + 1 :]
        failed = not done and (b'"model":""' in last or last.startswith(b'data: {"error"'))
        return Ending(done, failed, prompt, tokens)


def _error(text: str, kind: str, code: str) -> str:
    return f'{{"error":{{"message":{quoted(text)},"type":"{kind}","param":null,"code":{code}}}}}'
