"""The native API: its routes, its errors, the end of its line streams.

Shapes are those of stock's server/routes.go and api/types.go. It must not know
the other dialects.
"""

import re
from typing import Final

import msgspec

from ollama_wrap.call import Header, Kind
from ollama_wrap.dialects.base import Ending, Route
from ollama_wrap.dialects.gojson import quoted


def _route(
    kind: Kind, operation: str, *, reads_body: bool = False, repeatable: bool = False
) -> Route:
    return Route(kind, operation, "ollama", reads_body, repeatable)


# Repeatable: asked twice, it changes nothing on a node.
_infer = {"reads_body": True, "repeatable": True}
_ROOT = _route(Kind.LIST, "root", repeatable=True)
_VERSION = _route(Kind.LIST, "version", repeatable=True)
_TAGS = _route(Kind.LIST, "tags", repeatable=True)

ROUTES: Final = {
    ("GET", "/"): _ROOT,
    ("HEAD", "/"): _ROOT,
    ("GET", "/api/version"): _VERSION,
    ("HEAD", "/api/version"): _VERSION,
    ("GET", "/api/tags"): _TAGS,
    ("HEAD", "/api/tags"): _TAGS,
    ("GET", "/api/ps"): _route(Kind.LIST, "ps", repeatable=True),
    ("GET", "/api/status"): _route(Kind.OTHER, "status", repeatable=True),
    ("POST", "/api/show"): _route(Kind.FOLLOW, "show", **_infer),
    ("POST", "/api/generate"): _route(Kind.INFER, "generate", **_infer),
    ("POST", "/api/chat"): _route(Kind.INFER, "chat", **_infer),
    ("POST", "/api/embed"): _route(Kind.INFER, "embed", **_infer),
    ("POST", "/api/embeddings"): _route(Kind.INFER, "embeddings", **_infer),
    ("POST", "/api/pull"): _route(Kind.ONCE, "pull", reads_body=True),
    ("POST", "/api/push"): _route(Kind.ONCE, "push", reads_body=True),
    ("POST", "/api/create"): _route(Kind.ONCE, "create", reads_body=True),
    ("POST", "/api/copy"): _route(Kind.FOLLOW, "copy", reads_body=True),
    ("DELETE", "/api/delete"): _route(Kind.FOLLOW, "delete", reads_body=True),
    ("POST", "/api/me"): _route(Kind.OTHER, "me"),
    ("POST", "/api/signout"): _route(Kind.OTHER, "signout"),
}


class _Line(msgspec.Struct):
    done: bool = False
    error: object = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None


_line = msgspec.json.Decoder(_Line)
_counts = re.compile(rb'"(prompt_eval_count|eval_count)":(\d{1,18})')


class Ollama:
    """NDJSON lines and `{"error": …}`."""

    name = "ollama"

    def error(self, status: int, text: str, request_id: str) -> tuple[list[Header], bytes]:
        body = f'{{"error":{quoted(text)}}}'.encode()
        return [(b"Content-Type", b"application/json; charset=utf-8")], body

    def marker(self, reason: str, request_id: str, tail: bytes) -> bytes:
        # A line that was cut must not swallow ours.
        gap = "\n" if tail and not tail.endswith(b"\n") else ""
        text = quoted(f"stream interrupted: {reason}")
        code, by = quoted(reason), quoted(request_id)
        return f'{gap}{{"error":{text},"code":{code},"request_id":{by}}}\n'.encode()

    def ending(self, operation: str, streamed: bool, tail: bytes) -> Ending:  # noqa: FBT001
        """The last line decides; embeddings carry no `done` and are whole when their object is."""
        text = tail.rstrip()
        line = text[text.rfind(b"\n") + 1 :]
        try:
            last = _line.decode(line)
        except msgspec.MsgspecError:
            last = _cut(line)
        done = last.done or (operation in ("embed", "embeddings") and line.endswith(b"}"))
        return Ending(done, last.error is not None, last.prompt_eval_count, last.eval_count)


def _cut(line: bytes) -> _Line:
    # The last line of a long generate holds all of `context`: only its end is here.
    # What follows the list are the metrics, which no other line has.
    metrics = line[line.rfind(b"]") + 1 :]
    counts = {name.decode(): int(number) for name, number in _counts.findall(metrics)}
    done = metrics.endswith(b"}") and b'_duration":' in metrics
    return _Line(done, None, counts.get("prompt_eval_count"), counts.get("eval_count"))
