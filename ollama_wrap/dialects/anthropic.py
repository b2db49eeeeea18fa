"""The Anthropic route of stock: its errors, the end of its event stream.

Shapes are those of stock's anthropic/anthropic.go. It must not know the other dialects.
"""

from typing import Final

from ollama_wrap.call import Header, Kind
from ollama_wrap.dialects import sse
from ollama_wrap.dialects.base import Ending, Route
from ollama_wrap.dialects.gojson import quoted

ROUTES: Final = {
    ("POST", "/v1/messages"): Route(
        Kind.INFER, "messages", "anthropic", reads_body=True, repeatable=True
    )
}
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}


class Anthropic:
    """Named events that end in `message_stop`, and `{"type": "error", …}`."""

    name = "anthropic"

    def error(self, status: int, text: str, request_id: str) -> tuple[list[Header], bytes]:
        body = _error(_TYPES.get(status, "api_error"), text, request_id) + "\n"
        return [(b"Content-Type", b"application/json")], body.encode()

    def marker(self, reason: str, request_id: str, tail: bytes) -> bytes:
        text = _error("api_error", f"stream interrupted: {reason}", request_id)
        return sse.gap(tail) + f"event: error\ndata: {text}\n\n".encode()

    def ending(self, operation: str, streamed: bool, tail: bytes) -> Ending:  # noqa: FBT001
        """`message_stop`, or a whole object where nothing was streamed."""
        prompt, tokens = sse.usage(tail)
        if not streamed:
            return Ending(
                tail.rstrip().endswith(b"}"), failed=False, prompt_tokens=prompt, tokens=tokens
            )
        # So that a first event stands behind a line end, too.
        text = b"\n" + tail.rstrip()
        done = text.endswith(b"}") and b"\nevent: message_stop\n" in text
        return Ending(done, b"\nevent: error\n" in text, prompt, tokens)


def _error(kind: str, text: str, request_id: str) -> str:
    error = f'{{"type":"{kind}","message":{quoted(text)}}}'
    return f'{{"type":"error","error":{error},"request_id":{quoted(request_id)}}}'
