"""The door: which Host and Origin come in, and who is calling.

Decided from the head alone, before a body is read. On stock's routes the rules are
stock's own, for the listener that the connection came in on; on ours, a list of
hosts. What may be done inside is `rights` and `scopes`. It must not know bodies.
"""

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from ollama_wrap.api import hosts
from ollama_wrap.api.admin_token import AdminToken
from ollama_wrap.api.errors import render_own
from ollama_wrap.api.origins import Leave, Origins, Verdict
from ollama_wrap.call import Call, Header
from ollama_wrap.clock import Clock
from ollama_wrap.dialects import route
from ollama_wrap.errors import Forbidden, LimitReached

#: seconds for which this machine's addresses are taken as known, and hosts kept meanwhile
FRESH = 30.0
KEPT = 1024

HEALTH = frozenset({"/health", "/health/live", "/health/ready"})
_FORWARDED = frozenset({b"forwarded", b"x-real-ip", b"cf-connecting-ip"})
_LOOPBACK = ("127.", "::ffff:127.")
#: paths that Go's ServeMux cleans, and those whose last slash gin takes off
_REDIRECTED = re.compile(r"//|/\.{1,2}(?:/|\Z)|./\Z")
_METHODS = ("HEAD", "GET", "POST", "DELETE")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the door goes by.

    `listeners` are bound addresses as `host:port`. `origins` are the entries of
    OLLAMA_ORIGINS alone. `hostname` is this machine's name as the system says it;
    `machine` gives its names, in lower case, and the addresses of its interfaces.
    `local_loopback`: we reach the local Ollama on loopback. `tokens`: another kind of token is
    configured, so changes need one.
    """

    listeners: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    node_hosts: frozenset[str] = frozenset()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    protect: str = "off"
    admin_token: str | None = field(default=None, repr=False)
    tokens: bool = False
    local_loopback: bool = True
    hostname: str = ""
    machine: Callable[[], frozenset[str]] = frozenset


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the door answers instead of letting in: headers without framing."""

    status: int
    headers: tuple[Header, ...] = ()
    body: bytes = b""


#: The Origin is one that only the local Ollama can judge: await `Door.origin`.
ASK: Final = Refusal(403)


@dataclass(frozen=True, slots=True)
class _Entry:
    # One Host header on one listener: may it come in, and would a loopback stock take it.
    open: bool
    keep: bool


class Door:
    """Lets calls in or not, and writes on them who calls and what a browser must be told.

    `listener` is the address a connection came in on: `host:port` as far as known,
    "" where nothing is. `token` is to be shared with `Scopes` and `rights`.
    """

    def __init__(
        self, rules: Rules, ask_origin: Callable[[bytes], Awaitable[Verdict]], clock: Clock
    ) -> None:
        self.token = AdminToken(rules.admin_token, clock)
        self._ask_origin = ask_origin
        self._clock = clock
        self._entries: dict[tuple[bytes, str], _Entry] = {}
        self._stale = 0.0
        self._salt = secrets.token_bytes(16)
        self.obey(rules)

    def obey(self, rules: Rules) -> None:
        """Go by these rules from now on; what a Plan has of others is to be forgotten."""
        self.rules = rules
        self.token.become(rules.admin_token)
        self._origins = Origins(
            rules.origins, self._ask_origin, self._clock, loopback=rules.local_loopback
        )
        self._entries.clear()
        self._allowed = frozenset(map(hosts.bare, rules.allowed_hosts | rules.node_hosts)) | {
            hosts.bare(listener) for listener in rules.listeners
        }

    def stock(self, call: Call, listener: str) -> Refusal | None:
        """The door of a stock route; `ASK` where `origin` has to be awaited instead.

        Sets `client`, `loopback`, `caller`, `cors` and `keep_host` of the call. A Refusal
        may also be the answer to a preflight that the local Ollama could not give.
        """
        self._identify(call)
        fields = call.fields
        origin = fields.get(b"origin")
        if origin:
            host = fields.get(b"host", b"")
            # A page of the same host is no foreign one.
            if origin not in (b"http://" + host, b"https://" + host):
                leave = self._origins.judge(origin)
                return ASK if leave is None else self._cross(call, listener, leave)
        entry = self._entry(call, listener)
        call.keep_host = entry.keep
        return None if entry.open else _empty(403, call)

    def redirects(self, call: Call, listener: str) -> bool:
        """Whether stock would redirect this path before it looks at Host and Origin.

        Then both go out as they came, to a stock on loopback that judges them itself.
        """
        if not self.rules.local_loopback or not _REDIRECTED.search(call.path):
            return False
        call.keep_host = hosts.loopback_bound(listener, self.rules.listeners)
        return call.keep_host

    async def origin(self, call: Call, listener: str) -> Refusal | None:
        """The rest of `stock`, once the local Ollama has been asked about the Origin."""
        leave = await self._origins.ask(call.fields[b"origin"])
        return self._cross(call, listener, leave)

    def own(self, call: Call, listener: str) -> Refusal | None:
        """The door of our own routes; it never gives CORS headers."""
        believed = self._identify(call)
        call.near = (believed or not _forwarded(call)) and (
            hosts.is_loopback(call.client) or hosts.is_private(call.client)
        )
        host = call.fields.get(b"host", b"").decode("latin-1")
        if call.path in HEALTH or hosts.ours_accept(host, self.rules.machine(), self._allowed):
            return None
        try:
            if self.token.valid(call):
                return None
        except LimitReached as error:
            return _own(error)
        shown = hosts.bare(host)[:255]
        return _own(
            Forbidden(
                f"the host {shown!r} is not one of this sidecar's; "
                "add it to OLLAMA_WRAP_ALLOWED_HOSTS",
                details={"host": shown, "setting": "OLLAMA_WRAP_ALLOWED_HOSTS"},
            )
        )

    def _cross(self, call: Call, listener: str, leave: Leave) -> Refusal | None:
        if not leave.allowed:
            return _empty(403, call)
        entry = self._entry(call, listener)
        if call.method == "OPTIONS":
            # Stock answers a preflight before it looks at the Host.
            call.cors = list(leave.preflight)
            call.keep_host = (
                leave.stock_too and self.rules.local_loopback and b"host" in call.fields
            )
            return None if call.keep_host else preflight(call)
        call.cors = list(leave.simple)
        call.keep_host = entry.keep and leave.stock_too
        return None if entry.open else _empty(403, call)

    def _entry(self, call: Call, listener: str) -> _Entry:
        host = call.fields.get(b"host")
        if host is None:
            # HTTP/1.0 may leave it out; no browser does.
            return _Entry(open=True, keep=False)
        now = self._clock.monotonic()
        # Names and addresses of a machine change, and clients may send ever new hosts.
        if now >= self._stale or len(self._entries) >= KEPT:
            self._entries.clear()
            self._stale = now + FRESH
        entry = self._entries.get((host, listener))
        if entry is None:
            rules = self.rules
            taken = hosts.stock_accepts(host.decode("latin-1"), rules.hostname, rules.machine())
            free = not hosts.loopback_bound(listener, rules.listeners)
            entry = _Entry(open=taken or free, keep=taken and rules.local_loopback)
            self._entries[host, listener] = entry
        return entry

    def _identify(self, call: Call) -> bool:
        """Write down who calls; whether that is what a trusted proxy says."""
        fields, peer = call.fields, call.client
        call.loopback = (
            (peer.startswith(_LOOPBACK) or peer == "::1")
            and b"origin" not in fields
            and b"via" not in fields
            and not _forwarded(call)
        )
        believed = (
            bool(self.rules.trusted_proxies) and b"x-forwarded-for" in fields and self._trusts(peer)
        )
        if believed:
            call.client = self._forwarded_for(call)
        credential = fields.get(b"authorization") or fields.get(b"x-api-key")
        if credential:
            digest = hashlib.blake2b(credential, digest_size=8, key=self._salt)
            call.caller = f"key-{digest.hexdigest()}"
        else:
            call.caller = call.client
        return believed

    def _forwarded_for(self, call: Call) -> str:
        """The nearest address that is no trusted proxy."""
        known = call.client
        told = b",".join(v for name, v in call.headers if name.lower() == b"x-forwarded-for")
        for hop in reversed(told.decode("latin-1").split(",")):
            before = hosts.address(hosts.bare(hop.strip()))
            # Beyond the first address that is not ours to trust, anything may be made up.
            if before is None or not self._trusts(known):
                break
            known = str(before)
        return known

    def _trusts(self, client: str) -> bool:
        found = hosts.address(client)
        return found is not None and any(found in one for one in self.rules.trusted_proxies)


def _forwarded(call: Call) -> bool:
    # Somebody between sends the call for another.
    return any(name[:12] == b"x-forwarded-" or name in _FORWARDED for name in call.fields)


def preflight(call: Call) -> Refusal:
    """The answer to a preflight whose CORS headers `Door.stock` has set, as stock gives it."""
    return _empty(204, call)


def _empty(status: int, call: Call) -> Refusal:
    return Refusal(status, tuple(sorted([*call.cors, *_allow(call)], key=lambda one: one[0])))


def _allow(call: Call) -> list[Header]:
    # Stock says on any answer of its door what it would say with a 405.
    methods = [name for name in _METHODS if route(name, call.path).operation != "other"]
    if not methods or call.method in methods:
        return []
    return [(b"Allow", ", ".join(methods).encode())]


def _own(error: Forbidden | LimitReached) -> Refusal:
    status, headers, body = render_own(error)
    return Refusal(status, tuple(headers), body)
