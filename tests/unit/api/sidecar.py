"""Our own routes with all they need, asked in process as an ASGI server would ask."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette

from ollama_wrap.api.guards import Door, Rules
from ollama_wrap.api.origins import Verdict
from ollama_wrap.api.routes import own_routes
from ollama_wrap.api.scopes import Scopes
from ollama_wrap.api.surface import About, Parts
from ollama_wrap.call import Mode
from ollama_wrap.cluster.choices import Choices, Overridable
from ollama_wrap.cluster.events import Events
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.nodes.mode import decide
from ollama_wrap.observe.metrics import Metrics
from ollama_wrap.proxy.running import Running
from ollama_wrap.state.memory import MemoryBus, MemoryStore
from tests.fakes.clock import FakeClock
from tests.fakes.nodes import fleet, upstream

TOKEN = "correct horse battery"
BEARER = ("Authorization", f"Bearer {TOKEN}")
PRIVATE, PUBLIC = "10.0.0.9", "203.0.113.7"
SETTINGS = Overridable(distributed=None, standalone=False, fallback=True)


class Store(MemoryStore):
    """Can be away."""

    away = False

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._check()
        await super().set(key, value, ttl)

    async def get(self, key: str) -> bytes | None:
        self._check()
        return await super().get(key)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("the disk is full")


@dataclass(frozen=True, slots=True)
class Got:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error, which has to have our form."""
        shape = self.json
        assert shape.keys() == {"error", "code", "details"}
        assert shape["error"]
        return str(shape["code"])


async def nobody(origin: bytes) -> Verdict:
    raise AssertionError(origin)


class Sidecar:
    """Two nodes, unless a test gives others."""

    def __init__(
        self,
        nodes: Fleet | None = None,
        *,
        token: str | None = TOKEN,
        protect: str = "off",
        settings: Overridable = SETTINGS,
    ) -> None:
        self.clock = FakeClock()
        self.store = Store(self.clock)
        self.fleets = Fleets(nodes or fleet(upstream("local"), upstream("r1=h1:11434")))
        self.settings = settings
        self.choices = Choices(
            self.store, settings, Events(MemoryBus(), "tower", self.clock), self._settle
        )
        self.metrics = Metrics(lambda _: True)
        self.running = Running()
        self.ready = True
        self.draining = False
        listen = ("127.0.0.1:11434",)
        self.parts = Parts(
            about=About("tower", "0f0f", "0.1.0", listen, "memory", self.clock.monotonic()),
            fleets=self.fleets,
            choices=self.choices,
            metrics=self.metrics,
            running=self.running,
            store=self.store,
            clock=self.clock,
            ready=lambda: self.ready,
            draining=lambda: self.draining,
        )
        self.door = Door(
            Rules(listeners=listen, admin_token=token, protect=protect), nobody, self.clock
        )
        scopes = Scopes(self.door.token, protect=protect, tokens=False)
        self.app = Starlette(routes=own_routes(self.door, scopes, self.parts))

    def _settle(self) -> None:
        present = self.fleets.current
        mode, reason = decide(
            distributed=self.settings.distributed,
            standalone=self.settings.standalone,
            choice=self.choices.mode,
            known=bool(present.others),
            answers=present.answering(),
        )
        self.fleets.replace(Fleet(mode, reason, present.local, present.others))

    @property
    def mode(self) -> Mode:
        return self.fleets.current.mode

    async def ask(
        self,
        method: str,
        target: str,
        *headers: tuple[str, str],
        client: str = "127.0.0.1",
        host: str | None = "localhost:11434",
        body: bytes | list[dict[str, Any]] = b"",
    ) -> Got:
        """`body` is bytes, or the messages that the server gives."""
        path, _, query = target.partition("?")
        lines = ([("Host", host)] if host is not None else []) + list(headers)
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in lines],
            "client": (client, 50000),
            "server": ("127.0.0.1", 11434),
        }
        coming = [{"type": "http.request", "body": body}] if isinstance(body, bytes) else list(body)
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return coming.pop(0) if coming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start, *rest = sent
        names = [name.decode() for name, _ in start["headers"]]
        assert len(names) == len(set(names))
        return Got(
            start["status"],
            {name.decode(): value.decode("latin-1") for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in rest),
        )

    async def get(self, target: str, *headers: tuple[str, str], **said: Any) -> Got:
        return await self.ask("GET", target, *headers, **said)

    async def post(self, target: str, shape: object, *headers: tuple[str, str]) -> Got:
        return await self.ask("POST", target, *headers, body=json.dumps(shape).encode())
