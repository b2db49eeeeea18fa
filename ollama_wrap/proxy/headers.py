"""Header fields on their way through: what is dropped, what is ours, how bodies are framed.

Pure. Everything else passes with its name, case, order and repeats.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

from ollama_wrap.call import Call, Header, Mode
from ollama_wrap.reply import Origin
from ollama_wrap.wire.base import Framing

#: Hop-by-hop (RFC 9110, 7.6.1), and what is decided on this hop.
_HOP = frozenset(
    {
        b"connection",
        b"expect",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
#: Ours: said to this sidecar, not to the Ollama behind it.
_OURS = frozenset(
    {
        b"x-ollama-force-local",
        b"x-ollama-force-distributed",
        b"x-ollama-target-nodes",
        b"x-ollama-route",
        b"x-ollama-priority",
        b"x-ollama-timeout-ms",
        b"x-ollama-hop",
        b"x-ollama-digest",
        b"x-ollama-node",
        b"x-dry-run",
    }
)
#: Stock reads no cookie, and for cloud models it would carry them out of the house.
_NEVER_OUT = _HOP | _OURS | {b"cookie"}
#: Not for other nodes: the client's own credentials, and what CORS is decided by.
_NOT_ELSEWHERE = _NEVER_OUT | {b"authorization", b"origin", b"host"}
#: What may be a token or a key of ours, which no node is to see.
_CREDENTIALS = (b"authorization", b"x-api-key")
#: A `Connection` header cannot take these away.
_PROTECTED = frozenset({b"host", b"authorization", b"content-length", b"content-type"})
#: What Go's server adds to an answer by itself stands after all else.
_WRITTEN_LAST = frozenset({b"date", b"content-length"})
#: A sidecar is given this much less than what is left of a deadline, in ms.
_ON_THE_WAY = 50
#: What another node says for itself and not for us.
_NOT_FROM_ELSEWHERE = (b"access-control-", b"x-ollama-", b"x-request-id")


def request(
    call: Call,
    secret: Callable[[bytes], bool],
    host: bytes,
    extra: Iterable[Header],
    *,
    local: bool,
) -> tuple[list[Header], list[Header]]:
    """The fields that go to a node, before and after the one that frames the body.

    `secret` tells credentials of ours, which are nobody else's business; `host` is
    the node's own name and port; `extra` are the node's configured fields and our
    marks.
    """
    drop = (_NEVER_OUT if local else _NOT_ELSEWHERE) | _named(call)
    before: list[Header] = []
    if not (local and call.keep_host):
        before.append((b"Host", host))
        drop |= {b"host", b"origin"}
    after: list[Header] = []
    # Stock never sees that a field was parsed: Content-Length goes back to its place.
    place = call.sized[0] if call.sized is not None else len(call.headers)
    for index, field in enumerate(call.headers):
        name = field[0].lower()
        if name not in drop and not (name in _CREDENTIALS and secret(field[1])):
            (before if index < place else after).append(field)
    after.extend(extra)
    return before, after


def marks(call: Call, own_id: str, sidecar: str, now: float) -> list[Header]:
    """What only another sidecar is told; `now` is monotonic seconds."""
    told = [(b"X-Ollama-Hop", b"1")]
    # One of our own name would take it for a loop.
    if sidecar != own_id:
        told.append((b"Via", b"1.1 " + own_id.encode()))
    if b"x-request-id" not in call.fields:
        told.append((b"X-Request-ID", call.id.encode()))
    if call.deadline is not None:
        left = int((call.deadline - now) * 1000) - _ON_THE_WAY
        told.append((b"X-Ollama-Timeout-Ms", b"%d" % max(0, left)))
    return told


def framing(call: Call, size: int | None) -> bytes:
    """The line that frames a body of `size` bytes; None: it goes in chunks."""
    if size is None:
        return b"Transfer-Encoding: chunked\r\n"
    if call.sized is not None:
        return b"%b: %d\r\n" % (call.sized[1], size)
    return b"Content-Length: %d\r\n" % size if size or call.length else b""


def reply(
    status: int, fields: Iterable[Header], *, bare: bool, local: bool
) -> tuple[list[Header], Framing, bool]:
    """The fields of a node's reply that go to the client, and how its body is framed.

    True: our own Ollama ends its connection with it, which it would do to the client.
    """
    kept: list[Header] = []
    framing = Framing.CLOSE
    connection = b""
    for field in fields:
        name = field[0].lower()
        if name in _HOP:
            if name == b"transfer-encoding":
                framing = Framing.CHUNKED
            elif name == b"connection":
                connection = field[1].lower()
            continue
        if name == b"content-length":
            framing = Framing.LENGTH
        elif not local and name.startswith(_NOT_FROM_ELSEWHERE):
            continue
        kept.append(field)
    if connection and (named := _tokens(connection)):
        kept = [field for field in kept if field[0].lower() not in named]
    # Whatever these say of a body, there is none.
    if bare or status in {204, 304}:
        framing = Framing.NONE
    return kept, framing, local and b"close" in connection


def prefixed(fields: list[Header], prefix: bytes) -> list[Header]:
    """The fields with the prefix put back before a relative Location."""
    return [
        (name, prefix + value)
        if name.lower() == b"location" and value[:1] == b"/" and value[:2] != b"//"
        else (name, value)
        for name, value in fields
    ]


@lru_cache(maxsize=1024)
def _usual(mode: Mode, node: str | None, reason: str | None) -> tuple[Header, ...]:
    distributed = mode is Mode.DISTRIBUTED
    fields = [
        (b"X-Ollama-Distributed", b"true" if distributed else b"false"),
        (b"X-Ollama-Mode", mode.value.encode()),
    ]
    if node is not None:
        fields.append((b"X-Ollama-Node", node.encode()))
    if reason is not None and distributed:
        fields.append((b"X-Ollama-Route-Reason", reason.encode()))
    return tuple(fields)


def with_cors(fields: list[Header], cors: list[Header]) -> list[Header]:
    """The fields with those of CORS where stock has them: Go writes names in their order."""
    if not cors:
        return fields
    last = [field for field in fields if field[0].lower() in _WRITTEN_LAST]
    first = [field for field in fields if field[0].lower() not in _WRITTEN_LAST]
    return sorted([*cors, *first], key=lambda field: field[0]) + last


def ours(call: Call, origin: Origin, standalone: str | None) -> list[Header]:
    """What we say about an answer."""
    fields = list(_usual(call.mode, origin.node, origin.reason))
    if origin.fallback is not None:
        fields.append((b"X-Ollama-Fallback", b"true"))
        fields.append((b"X-Ollama-Fallback-Reason", origin.fallback.encode()))
    if origin.model is not None:
        fields.append((b"X-Ollama-Model", origin.model.encode()))
    if origin.age is not None:
        fields.append((b"X-Ollama-Cached-Response", b"true"))
        fields.append((b"Age", b"%d" % origin.age))
    # A call keeps the mode that it came with.
    if standalone is not None and call.mode is Mode.STANDALONE:
        fields.append((b"X-Ollama-Standalone-Reason", standalone.encode()))
    # One attempt is no news.
    if len(origin.attempts) > 1:
        words = ", ".join(f"{node}:{word}" for node, word in origin.attempts)
        fields.append((b"X-Ollama-Attempts", words.encode()))
    fields.append((b"X-Request-ID", call.id.encode()))
    return fields


def joined(fields: Iterable[Header]) -> bytes:
    """Fields as lines."""
    lines: list[bytes] = []
    for name, value in fields:
        lines += (name, b": ", value, b"\r\n")
    return b"".join(lines)


def _named(call: Call) -> frozenset[bytes]:
    """What the client's `Connection` fields name."""
    named: frozenset[bytes] = frozenset()
    if b"connection" in call.fields:
        for name, value in call.headers:
            if name.lower() == b"connection":
                named |= _tokens(value)
    return named


def _tokens(value: bytes) -> frozenset[bytes]:
    named = frozenset(token.strip().lower() for token in value.split(b","))
    return named - _PROTECTED - {b"close", b"keep-alive"}
