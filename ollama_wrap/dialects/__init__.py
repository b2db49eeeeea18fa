"""What clients speak: pure functions over bytes. `base` the contract, one file a dialect.

`route` says what a method and a path ask for, `reading` what the body adds to it;
`body` reads JSON as Go does, `lists` writes merged lists as stock writes them.
Nothing here knows of nodes, sockets or modes.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import unquote_to_bytes

from ollama_wrap.call import Kind
from ollama_wrap.dialects import anthropic, ollama, openai
from ollama_wrap.dialects.base import Dialect, Ending, Reading, Route
from ollama_wrap.dialects.reading import Incoming, incoming, read

__all__ = [
    "DIALECTS",
    "Dialect",
    "Ending",
    "Incoming",
    "Reading",
    "Route",
    "incoming",
    "read",
    "route",
]

DIALECTS: Final[Mapping[str, Dialect]] = {
    dialect.name: dialect for dialect in (ollama.Ollama(), openai.OpenAI(), anthropic.Anthropic())
}

_ROUTES: Final[Mapping[tuple[str, str], Route]] = {
    **ollama.ROUTES,
    **openai.ROUTES,
    **anthropic.ROUTES,
}
_BLOB = {
    "HEAD": Route(Kind.ONCE, "blob", "ollama", repeatable=True),
    "POST": Route(Kind.ONCE, "blob", "ollama"),
}
_MODEL = Route(Kind.FOLLOW, "model", "openai", repeatable=True)
_SIGNOUT = Route(Kind.OTHER, "signout", "ollama")
_OTHER = {name: Route(Kind.OTHER, "other", name) for name in DIALECTS}
_escape = re.compile("%(?![0-9a-fA-F]{2})")


def route(method: str, path: str) -> Route:
    """What `method` asks of the raw `path` (latin-1 text, no query).

    Stock's router matches the percent-decoded path and so does this; a path
    that is not clean, or that stock does not know, is `Kind.OTHER`.
    """
    found = _ROUTES.get((method, path))
    if found is not None:
        return found
    if "%" in path or not path.isascii():
        if _escape.search(path):
            return _other(path)
        path = unquote_to_bytes(path.encode("latin-1")).decode("utf-8", "replace")
        found = _ROUTES.get((method, path))
    return found or _with_parameter(method, path) or _other(path)


def _with_parameter(method: str, path: str) -> Route | None:
    folder, _, last = path.rpartition("/")
    if last in ("", ".", ".."):
        return None
    if folder == "/v1/models" and method == "GET":
        return replace(_MODEL, model=last)
    if folder == "/api/blobs":
        return _BLOB.get(method)
    if folder == "/api/user/keys" and method == "DELETE":
        return _SIGNOUT
    return None


def _other(path: str) -> Route:
    if path.startswith("/v1/messages"):
        return _OTHER["anthropic"]
    return _OTHER["openai" if path.startswith("/v1/") else "ollama"]
