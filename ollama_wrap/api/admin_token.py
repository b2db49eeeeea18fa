"""The admin token: whether a request carries it, and how often an address may guess.

Tokens are compared as hashes in constant time. It must not know routes.
"""

import hashlib
import hmac
from ipaddress import ip_network
from math import ceil

from ollama_wrap.call import Call
from ollama_wrap.clock import Clock
from ollama_wrap.errors import Forbidden, LimitReached, Unauthorized

LEAST = 8
#: wrong tokens that an address may send within so many seconds
GUESSES = 10
WINDOW = 60.0
#: most addresses whose guesses are counted
ADDRESSES = 4096


class AdminToken:
    """OLLAMA_ADMIN_TOKEN. Unset or shorter than 8 characters: nothing matches it."""

    def __init__(self, text: str | None, clock: Clock) -> None:
        self._clock = clock
        self._wrong: dict[str, list[float]] = {}
        self.become(text)

    def become(self, text: str | None) -> None:
        """It is this one from now on; guesses stay counted."""
        self.configured = bool(text)
        self.usable = text is not None and len(text) >= LEAST
        self._hash = _hash((text or "").encode())

    def ours(self, value: bytes) -> bool:
        """Whether `value`, with or without `Bearer`, is the token: it never goes to a node."""
        return self.usable and self._same(_bearer(value) or value)

    def valid(self, call: Call) -> bool:
        """Whether `call` carries the token; a wrong one is counted, LimitReached on too many."""
        given = _bearer(call.fields.get(b"authorization", b""))
        if not self.usable or not given:
            return False
        now, block = self._clock.monotonic(), _block(call.client)
        # Guesses are looked at before the token: a right one does not help who guesses.
        guesses = [when for when in self._wrong.get(block, ()) if when > now - WINDOW]
        if len(guesses) >= GUESSES:
            wait = ceil(guesses[0] + WINDOW - now)
            raise LimitReached("too many wrong tokens from your address", retry_after=wait)
        if self._same(given):
            return True
        # Put in again at the end: who guessed longest ago is forgotten first.
        self._wrong.pop(block, None)
        self._wrong[block] = [*guesses, now]
        if len(self._wrong) > ADDRESSES:
            del self._wrong[next(iter(self._wrong))]
        return False

    def demand(self, call: Call, closed: str = "FORBIDDEN") -> None:
        """Pass or raise: Forbidden with the code `closed` where no token could open it."""
        if not self.usable:
            state = "is too short" if self.configured else "is not set"
            raise Forbidden(
                f"closed: OLLAMA_ADMIN_TOKEN {state}; set it to at least {LEAST} characters "
                "(32 or more are better) and start again",
                code=closed,
                details={"setting": "OLLAMA_ADMIN_TOKEN"},
            )
        if not self.valid(call):
            raise Unauthorized("send the admin token: Authorization: Bearer <OLLAMA_ADMIN_TOKEN>")

    def _same(self, given: bytes) -> bool:
        return hmac.compare_digest(_hash(given), self._hash)


def _hash(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _bearer(value: bytes) -> bytes:
    scheme, _, token = value.strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _block(client: str) -> str:
    # A host has a whole /64 of IPv6 to guess from.
    try:
        return str(ip_network((client, 64), strict=False)) if ":" in client else client
    except ValueError:
        return client
