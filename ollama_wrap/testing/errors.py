"""Refusals of stock Ollama in the three shapes that its clients know.

Owns: shapes, types by status, and which spelling of the content type goes with which moment.
Must not know: why something was refused.
"""

import secrets
from dataclasses import dataclass, field
from enum import StrEnum

from ollama_wrap.testing.gojson import encode
from ollama_wrap.testing.reply import JSON, PLAIN_JSON, Reply, json_reply, one


class Shape(StrEnum):
    """How a route words its errors."""

    NATIVE = "native"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@dataclass(slots=True, eq=False)
class Refused(Exception):
    """An answer that is an error.

    `early`: made before the writer of a compat route is there. `native`: in the native shape on
    every route. `flushed`: made by a stream before its first item. `headers` come on top.
    """

    status: int
    text: str
    early: bool = False
    native: bool = False
    flushed: bool = False
    more: dict[str, object] = field(default_factory=dict)
    headers: list[tuple[str, str]] = field(default_factory=list)


def refusal(refused: Refused, shape: Shape) -> Reply:
    """Return the refusal as the routes of that shape send it."""
    native = refused.native or shape is Shape.NATIVE
    value = {"error": refused.text, **refused.more} if native else _compat(refused, shape)
    end = b"" if native or refused.early else b"\n"
    if refused.flushed:
        body = one(encode(value) + end)
        return Reply(refused.status, [("Content-Type", PLAIN_JSON), *refused.headers], body)
    kind = JSON if native or refused.early else PLAIN_JSON
    reply = json_reply(value, refused.status, kind, end)
    reply.headers += refused.headers
    return reply


def _compat(refused: Refused, shape: Shape) -> dict[str, object]:
    if shape is Shape.OPENAI:
        kinds = {400: "invalid_request_error", 404: "not_found_error"}
        kind = kinds.get(refused.status, "api_error")
        error = {"message": refused.text, "type": kind, "param": None, "code": None}
        return {"error": error}
    kinds = {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
        503: "overloaded_error",
        529: "overloaded_error",
    }
    return {
        "type": "error",
        "error": {"type": kinds.get(refused.status, "api_error"), "message": refused.text},
        "request_id": f"req_{secrets.token_hex(12)}",
    }
