"""Heads of answers: what clients are told before a body, and where that has been worked out before.

Answers of one node begin alike, but for date, length and id: what clients get of them
is made once (`wire/replies.py`). Which fields pass and which are ours is in
`proxy/headers.py`. Must not know who answers, nor write bodies.
"""

from email.utils import formatdate

from ollama_wrap.api.plan import PREFIX
from ollama_wrap.call import DISTRIBUTED, STANDALONE, Call, Header
from ollama_wrap.clock import Clock
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.names import canonical
from ollama_wrap.proxy import headers
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.reply import Origin, Reply
from ollama_wrap.wire.base import Exchange, Framing
from ollama_wrap.wire.replies import Form, form

PHRASES = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    409: b"Conflict",
    429: b"Too Many Requests",
    499: b"Client Closed Request",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    508: b"Loop Detected",
}


class Heads:
    """Writes them."""

    def __init__(self, fleets: Fleets, clock: Clock) -> None:
        self._fleets = fleets
        self._clock = clock

    def begin(self, exchange: Exchange, call: Call, reply: Reply) -> None:
        """Begin an answer whose body is still to come."""
        body, mode, origin = reply.body, call.mode, reply.origin
        answer = body.answer if isinstance(body, Attempt) else None
        head = answer.head if answer is not None else None
        # All that we say of an ordinary answer follows from its mode and the reason.
        ordinary = call.plain and mode is not STANDALONE and exchange.plain
        odd = origin.fallback is not None or origin.model is not None or origin.attempts
        if answer is None or head is None or odd or not ordinary:
            self._begin_anew(exchange, call, reply)
            return
        said = (mode is DISTRIBUTED, origin.reason)
        known = head.notes.get(said)
        if isinstance(known, Form):
            filled = known.filled(answer.date, answer.digits, call.id)
            exchange.begin_with(filled, known.framing)
            return
        fields, framing = self._begin_anew(exchange, call, reply)
        if exchange.plain:
            head.notes[said] = form(head, fields, framing)

    def _begin_anew(
        self, exchange: Exchange, call: Call, reply: Reply
    ) -> tuple[list[Header], Framing]:
        fields, framing, closing = self.fields(call, reply)
        if closing:
            exchange.keep_alive = False
        exchange.begin(reply.status, reply.phrase, fields, framing)
        return fields, framing

    def fields(self, call: Call, reply: Reply) -> tuple[list[Header], Framing, bool]:
        """The fields of an answer, the framing of its body, and whether the connection ends."""
        local = reply.origin.local
        fields, framing, closing = headers.reply(
            reply.status, reply.headers, bare=call.method == "HEAD", local=local
        )
        if call.prefixed:
            fields = headers.prefixed(fields, PREFIX.encode())
        if call.cors and not (local and call.keep_host):
            fields = headers.with_cors(fields, call.cors)
        fields += self.ours(call, reply.origin)
        if call.hop:
            fields += self._digest(call)
        return fields, framing, closing

    def _digest(self, call: Call) -> list[Header]:
        """Which build of the model answered, for the sidecar that passed the call on."""
        key = canonical(call.model or "")
        digest = self._fleets.current.local.inventory.digest(key) if key is not None else None
        return [(b"X-Ollama-Digest", digest[:12].encode())] if digest else []

    def date(self) -> Header:
        """An answer that no node made has a date all the same, as stock's have."""
        return b"Date", formatdate(self._clock.now(), usegmt=True).encode()

    def ours(self, call: Call, origin: Origin) -> list[Header]:
        """What we say about an answer."""
        fleet = self._fleets.current
        return headers.ours(call, origin, fleet.reason if fleet.mode is STANDALONE else None)


def length(body: bytes) -> Header:
    """The field that frames a body."""
    return b"Content-Length", b"%d" % len(body)


def may_mark(reply: Reply | None) -> bool:
    """Only streams can carry a word of ours: no length, no coding, lines of a known form."""
    if reply is None:
        return False
    streamed = False
    for name, value in reply.headers:
        lower = name.lower()
        if lower in {b"content-length", b"content-encoding"}:
            return False
        if lower == b"content-type":
            streamed = value.startswith((b"application/x-ndjson", b"text/event-stream"))
    return streamed
