"""Which Origin may call: stock Ollama's list, what settings add, and the local Ollama's word.

Owns the CORS headers. Rules and headers are those of stock: envconfig/config.go
(`AllowedOrigins`), server/routes.go and gin-contrib/cors. A list that is set on the
local Ollama alone counts too, so an Origin that stock's own list lacks is put to it.
It must not know Host rules or calls.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ollama_wrap.call import Header
from ollama_wrap.clock import Clock
from ollama_wrap.errors import WrapError

#: seconds that a verdict holds, and that the lack of one does
HOLDS = 60.0
UNHEARD = 5.0
#: most origins kept
KEPT = 256

_HOSTS = (b"localhost", b"127.0.0.1", b"0.0.0.0")
_EXACT = frozenset(scheme + host for scheme in (b"http://", b"https://") for host in _HOSTS)
_PREFIXES = (
    *(origin + b":" for origin in sorted(_EXACT)),
    b"app://",
    b"file://",
    b"tauri://",
    b"vscode-webview://",
    b"vscode-file://",
)
_METHODS = b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
_STAINLESS = (
    "Arch Async Custom-Poll-Interval Helper-Method Lang Os Package-Version Poll-Helper "
    "Retry-Count Runtime Runtime-Version Timeout"
)
_HEADERS = ",".join(
    (
        *("Authorization", "Content-Type", "User-Agent", "Accept", "X-Requested-With"),
        "Openai-Beta",
        *(f"X-Stainless-{name}" for name in _STAINLESS.split()),
    )
).encode()
_ALLOW_ORIGIN = b"Access-Control-Allow-Origin"
_VARY = b"Vary"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the local Ollama says to one Origin; `headers` are its CORS headers to a preflight."""

    allowed: bool
    headers: tuple[Header, ...] = ()


def verdict(status: int, headers: Sequence[Header]) -> Verdict:
    """Read the answer to `OPTIONS /` with an Origin and `Host: localhost`."""
    cors = tuple(
        (name, value)
        for name, value in headers
        if name.lower() == b"vary" or name.lower().startswith(b"access-control-")
    )
    if status >= 400 or not any(name.lower() == _ALLOW_ORIGIN.lower() for name, _ in cors):
        return Verdict(allowed=False)
    return Verdict(allowed=True, headers=cors)


@dataclass(frozen=True, slots=True)
class Leave:
    """What an Origin may do, and the CORS headers that tell its browser so.

    `stock_too`: the local Ollama allows it as well, so it may see the Origin.
    """

    allowed: bool
    stock_too: bool = False
    simple: tuple[Header, ...] = ()
    preflight: tuple[Header, ...] = ()


class Origins:
    """Judges origins; `ask` puts one to the local Ollama and raises WrapError where it is away.

    `extra` are the entries of OLLAMA_ORIGINS, each with at most one `*`; an entry of `*`
    allows all. `loopback`: the local Ollama is on loopback, so that an Origin may reach it.
    """

    def __init__(
        self,
        extra: Sequence[str],
        ask: Callable[[bytes], Awaitable[Verdict]],
        clock: Clock,
        *,
        loopback: bool,
    ) -> None:
        entries = [entry.strip().encode() for entry in extra if entry.strip()]
        self._everyone = b"*" in entries
        self._extra = frozenset(entry.lower() for entry in entries)
        self._patterns = [entry.split(b"*", 1) for entry in entries if b"*" in entry]
        self._ask = ask
        self._clock = clock
        self._loopback = loopback
        self._kept: dict[bytes, tuple[Leave, float]] = {}

    def judge(self, origin: bytes) -> Leave | None:
        """What `origin` may do, None where the local Ollama has to be asked first."""
        if origin in _EXACT or origin.startswith(_PREFIXES):
            return self._ours(origin, stock_too=True)
        leave, until = self._kept.get(origin, (None, 0.0))
        if leave is not None and self._clock.monotonic() < until:
            return leave
        if not self._loopback and self._added(origin):
            return self._ours(origin, stock_too=False)
        return None

    async def ask(self, origin: bytes) -> Leave:
        """Ask the local Ollama. While it is away its last word holds, else our list alone."""
        last, _ = self._kept.pop(origin, (None, 0.0))
        lasts = HOLDS
        try:
            leave = self._combine(origin, await self._ask(origin))
        except WrapError:
            leave, lasts = last or self._combine(origin, Verdict(allowed=False)), UNHEARD
        if len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[origin] = leave, self._clock.monotonic() + lasts
        return leave

    def _added(self, origin: bytes) -> bool:
        return (
            self._everyone
            or origin in self._extra
            or any(
                origin.startswith(head) and origin.endswith(tail) for head, tail in self._patterns
            )
        )

    def _combine(self, origin: bytes, said: Verdict) -> Leave:
        if said.allowed:
            allow = next(
                value for name, value in said.headers if name.lower() == _ALLOW_ORIGIN.lower()
            )
            return Leave(
                allowed=True, stock_too=True, simple=_simple(allow), preflight=said.headers
            )
        if self._added(origin):
            return self._ours(origin, stock_too=False)
        return Leave(allowed=False)

    def _ours(self, origin: bytes, *, stock_too: bool) -> Leave:
        allow = b"*" if self._everyone else origin
        return Leave(
            allowed=True, stock_too=stock_too, simple=_simple(allow), preflight=_preflight(allow)
        )


def _simple(allow: bytes) -> tuple[Header, ...]:
    if allow == b"*":
        return ((_ALLOW_ORIGIN, allow),)
    return (_ALLOW_ORIGIN, allow), (_VARY, b"Origin")


def _preflight(allow: bytes) -> tuple[Header, ...]:
    varies = (b"Origin", b"Access-Control-Request-Method", b"Access-Control-Request-Headers")
    return (
        (b"Access-Control-Allow-Headers", _HEADERS),
        (b"Access-Control-Allow-Methods", _METHODS),
        (_ALLOW_ORIGIN, allow),
        (b"Access-Control-Max-Age", b"43200"),
        *((_VARY, name) for name in varies if allow != b"*"),
    )
