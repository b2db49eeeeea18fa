"""The way of a request to one of our own routes, as Starlette hands it over.

In this order: the door, the scope that the route names, the method; only then a
body is read. Decides by the raw path alone, never by a URL put together with the
Host that a client sent. It must not know what routes answer.
"""

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any

from starlette.routing import Route

from ollama_wrap.api.errors import render_own
from ollama_wrap.api.guards import HEALTH, Door
from ollama_wrap.api.plan import sent_id
from ollama_wrap.api.scopes import Scopes
from ollama_wrap.api.surface import Asked, Parts, Row, Scope
from ollama_wrap.call import Call, Header, Mode
from ollama_wrap.errors import BadCall, CallerError, WrapError
from ollama_wrap.observe import log
from ollama_wrap.observe.ended import Ended
from ollama_wrap.proxy import headers
from ollama_wrap.reply import Origin

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
#: status, headers without framing, body
Written = tuple[int, list[Header], bytes]

#: most bytes of a body, and seconds within which it has to come
MOST = 64 * 1024
WITHIN = 10.0
_QUIET = HEALTH | {"/metrics", "/api/distributed/ping", "/api/distributed/metrics"}


class Own:
    """What all routes of ours go through."""

    def __init__(self, door: Door, scopes: Scopes, parts: Parts, *, within: float = WITHIN) -> None:
        self.parts = parts
        self._within = within
        self._door = door
        self._scopes: Mapping[Scope, Callable[[Call], None]] = {
            Scope.OPEN: lambda _: None,
            Scope.READ: scopes.read,
            Scope.REQUESTS: scopes.requests,
            Scope.WRITE: scopes.write,
            Scope.ADMIN: scopes.admin,
        }
        prefix = secrets.token_hex(4)
        self._ids = (f"{prefix}-own-{count}" for count in itertools.count(1))

    def routes(self, rows: Iterable[Row]) -> list[Route]:
        """Starlette's routes; the last one says 404 to whatever else comes here."""
        routes = [Route(row.path, _Endpoint(self, row)) for row in rows]
        return [*routes, Route("/{path:path}", _Endpoint(self, None))]

    def call(self, scope: Mapping[str, Any]) -> Call:
        """The request as facts."""
        raw = scope.get("raw_path") or scope["path"].encode()
        path = bytes(raw).partition(b"?")[0]
        lines: list[Header] = list(scope["headers"])
        fields = {name.lower(): value for name, value in reversed(lines)}
        return Call(
            id=sent_id(fields) or next(self._ids),
            method=scope["method"],
            target=path,
            path=path.decode("latin-1"),
            headers=lines,
            fields=fields,
            client=(scope.get("client") or ("",))[0],
            http11=scope.get("http_version", "1.1") != "1.0",
            started=self.parts.clock.monotonic(),
        )

    async def answer(
        self, call: Call, row: Row | None, scope: Mapping[str, Any], receive: Receive
    ) -> Written:
        """What is answered. Raises WrapError."""
        # In this order: nobody learns from a refusal what they may not know.
        refusal = self._door.own(call, _listener(scope))
        if refusal is not None:
            return refusal.status, list(refusal.headers), refusal.body
        if row is None:
            raise CallerError("there is no such route", status=404, code="NOT_FOUND")
        self._scopes[row.scope](call)
        if call.method not in row.methods:
            return _wrong_method(row)
        body = await _whole(receive, self._within) if row.method == "POST" else b""
        answer = await row.answer(self.parts, Asked(call, scope["path_params"], body))
        fields = [(b"Content-Type", answer.media)]
        if answer.status == 503:
            fields.append((b"Retry-After", b"1"))
        return answer.status, fields, answer.body

    async def write(self, call: Call, written: Written, send: Send) -> None:
        """Send it, with what we say about every answer."""
        status, fields, body = written
        fleet = self.parts.fleets.current
        call.mode = fleet.mode
        reason = fleet.reason if fleet.mode is Mode.STANDALONE else None
        fields = [*fields, *headers.ours(call, Origin(), reason)]
        fields.append((b"Content-Length", b"%d" % len(body)))
        lines = [(name.lower(), value) for name, value in fields]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        bare = call.method == "HEAD"
        await send({"type": "http.response.body", "body": b"" if bare else body})

    def ended(self, call: Call, written: Written) -> None:
        """Write its line; what machines ask every few seconds has none."""
        if call.path in _QUIET:
            return
        status, _, body = written
        ended = Ended(
            id=call.id,
            method=call.method,
            path=call.path,
            operation="own",
            model=None,
            node=None,
            reason=None,
            fallback=None,
            attempts=(),
            status=status,
            bytes_out=0 if call.method == "HEAD" else len(body),
            tokens=None,
            first_byte=None,
            duration=self.parts.clock.monotonic() - call.started,
            error=None,
        )
        log.request(ended)


class _Endpoint:
    """One route as an ASGI application, which Starlette leaves all methods to."""

    def __init__(self, own: Own, row: Row | None) -> None:
        self._own = own
        self._row = row

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        call = self._own.call(scope)
        try:
            written = await self._own.answer(call, self._row, scope, receive)
        except WrapError as error:
            written = render_own(error)
        except Exception:  # noqa: BLE001  a bug of one route is answered and logged
            log.get(__name__).exception("a route of ours failed", request_id=call.id)
            fault = WrapError("internal error; the log says more", details={"request_id": call.id})
            written = render_own(fault)
        await self._own.write(call, written, send)
        self._own.ended(call, written)


def _wrong_method(row: Row) -> Written:
    allow = ", ".join(row.methods)
    error = CallerError(
        f"this route takes {allow}",
        status=405,
        code="METHOD_NOT_ALLOWED",
        details={"allow": row.methods},
    )
    status, fields, body = render_own(error)
    return status, [*fields, (b"Allow", allow.encode())], body


async def _whole(receive: Receive, within: float) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(within):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise BadCall("the client left before its body was here")
                body += message.get("body", b"")
                if len(body) > MOST:
                    raise BadCall(f"the body is longer than {MOST} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise CallerError("the body came too slowly", status=408, code="TIMEOUT") from None


def _listener(scope: Mapping[str, Any]) -> str:
    host, port = scope.get("server") or ("", None)
    if not host or port is None:
        return host or ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
