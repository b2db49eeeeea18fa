"""Our errors as a caller reads them: in the dialect of a stock route, or in our own form.

The way out of the tree in `ollama_wrap.errors`; nothing is logged and nothing is
decided here. Headers come without framing: the edge knows how long a body is.
"""

import json

from ollama_wrap.call import Call, Header
from ollama_wrap.dialects import DIALECTS
from ollama_wrap.errors import Unauthorized, WrapError


def render(error: WrapError, call: Call) -> tuple[int, list[Header], bytes]:
    """An error on a stock route, with the CORS headers without which browsers hide it."""
    headers, body = DIALECTS[call.dialect].error(error.status, error.text, call.id)
    return error.status, [*headers, *_again(error), *call.cors], body


def render_own(error: WrapError) -> tuple[int, list[Header], bytes]:
    """An error on a route of ours: `{"error":"text","code":"UPPER_SNAKE","details":{}}`."""
    shape = {"error": error.text, "code": error.code, "details": dict(error.details)}
    headers: list[Header] = [(b"Content-Type", b"application/json"), *_again(error)]
    if isinstance(error, Unauthorized):
        headers.append((b"WWW-Authenticate", b"Bearer"))
    return error.status, headers, json.dumps(shape, default=str).encode()


def _again(error: WrapError) -> list[Header]:
    if error.status not in {429, 503}:
        return []
    # Who knows nothing better says: soon.
    return [(b"Retry-After", b"%d" % (error.retry_after or 1))]
