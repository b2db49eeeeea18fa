"""Builds the Runtime from Settings: gives each part what it needs, nothing more.

The only place that sees every room. What a lower room needs of an upper one it
is given here as a callable.
"""

import ipaddress
import random
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette

from ollama_wrap import portions
from ollama_wrap.api import asgi
from ollama_wrap.api.edge import Edge, Facts
from ollama_wrap.api.guards import Door, Rules
from ollama_wrap.api.origins import Verdict, verdict
from ollama_wrap.api.rights import rights
from ollama_wrap.api.routes import PATHS, PREFIXES, own_routes
from ollama_wrap.api.scopes import Scopes
from ollama_wrap.backends import BACKENDS, Client
from ollama_wrap.call import Header
from ollama_wrap.clock import Clock, SystemClock
from ollama_wrap.cluster.choices import Choices
from ollama_wrap.cluster.events import Events
from ollama_wrap.cluster.prober import Prober
from ollama_wrap.cluster.resolver import Resolver
from ollama_wrap.cluster.sightings import Sightings
from ollama_wrap.cluster.watch import Around
from ollama_wrap.config import Settings
from ollama_wrap.errors import ConfigError, StateError
from ollama_wrap.lifecycle import Load, Reload
from ollama_wrap.line import Beside, Line
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.nodes.mode import decide
from ollama_wrap.nodes.names import canonical
from ollama_wrap.nodes.node import Node, local_node, parse_nodes
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.observe import log
from ollama_wrap.observe.host import Host, most_files
from ollama_wrap.observe.metrics import Metrics
from ollama_wrap.observe.pressure import Strain
from ollama_wrap.proxy import ask
from ollama_wrap.routing.routed import open_router
from ollama_wrap.routing.router import Router
from ollama_wrap.runtime import Runtime, leads_here
from ollama_wrap.state import open_bus, open_store
from ollama_wrap.state.base import Store
from ollama_wrap.state.unusable import UnusableStore
from ollama_wrap.wire.guard import Guard
from ollama_wrap.wire.pools import Pools

#: Bytes of an answer to a question of our own about one Origin.
_SMALL = 64 * 1024


def build(settings: Settings, clock: Clock | None = None, load: Load | None = None) -> Runtime:
    """All parts, none of them running. Raises ConfigError, and StateError for the state folder.

    `load` reads all settings again, for a reload; None: they cannot be read again.
    """
    return _Builder(settings, clock or SystemClock(), load).runtime()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What settings name that has to be sound before any of them holds."""

    local: Node
    others: Sequence[Node]
    router: Router
    problems: Sequence[str]


class _Builder:
    """Makes the parts in the order in which they need each other; tells them other settings."""

    def __init__(self, settings: Settings, clock: Clock, load: Load | None) -> None:
        self.settings = settings
        self.clock = clock
        self.load = load
        self.boot = secrets.token_hex(8)
        self.host = Host()
        #: entries that lead back here: said once, and left out
        self.ourselves: set[Node] = set()
        plan = self._plan(settings)
        #: of the problems, those of the settings alone
        self.faults = list(plan.problems)
        self.problems = list(plan.problems)
        self.fleets = Fleets(self._fleet(plan))
        self.store, self.events = self._state()
        self.choices = Choices(
            self.store, portions.overridable(settings), self.events, self._settle
        )
        self.strain = Strain()
        self.metrics = Metrics(self._known, self._states, self.strain)
        self.pools = Pools(portions.times(settings), lambda: _tls(self.settings))
        self.prober = Prober(
            self.fleets,
            self._around(),
            Sightings(self.store, settings.health.seen),
            self.pools.close,
        )
        beside = Beside(
            clock,
            self.fleets,
            self.pools,
            self.prober,
            self.metrics,
            self.strain,
            fallback=lambda: self.choices.fallback,
            secret=lambda credential: self.door.token.ours(credential),  # noqa: PLW0108  made later
            trusted=lambda call: self.door.token.valid(call),  # noqa: PLW0108
        )
        self.line = Line(settings, plan.router, beside)
        self.door = Door(self._rules(self.fleets.current), self._ask_origin, self.clock)
        self.scopes = Scopes(
            self.door.token, protect=settings.protect, tokens=self.door.rules.tokens
        )
        limits = portions.limits(settings, most_files())
        self.guard = Guard(limits, self._unbounded, self.strain)
        self.made: Runtime | None = None

    def runtime(self) -> Runtime:
        """Everything."""
        edge = Edge(self.door, self.line.pipeline, self.fleets, self._facts(), self.clock)
        self.made = Runtime(
            settings=self.settings,
            clock=self.clock,
            store=self.store,
            events=self.events,
            choices=self.choices,
            fleets=self.fleets,
            prober=self.prober,
            pools=self.pools,
            metrics=self.metrics,
            host=self.host,
            pipeline=self.line.pipeline,
            door=self.door,
            scopes=self.scopes,
            edge=edge,
            guard=self.guard,
            strain=self.strain,
            boot=self.boot,
            store_kind=self.store_kind,
            problems=self.problems,
            reload=self._reload(),
        )
        return self.made

    # other settings

    def _reload(self) -> Reload | None:
        if self.load is None:
            return None
        return Reload(self.settings, self.load, self._prepare, self.metrics.reload)

    async def _prepare(self, settings: Settings) -> Callable[[], None]:
        """What puts these settings in force. Raises ConfigError where they cannot hold."""
        plan = self._plan(settings)
        problems = list(plan.problems)
        moved = plan.local.address != self.fleets.current.local.node.address
        tls = partial(_tls, settings)
        if moved and not problems and await leads_here(plan.local, self.boot, tls):
            problems = [f"OLLAMA_LOCAL_ADDR: {plan.local.address} leads to this sidecar itself"]
        if problems:
            raise ConfigError(problems)
        return partial(self._obey, settings, plan)

    def _obey(self, settings: Settings, plan: _Plan) -> None:
        """Every part goes by these from now on. Nothing here waits: a call sees all or nothing."""
        self.settings = settings
        # What the settings no longer say is no problem any more.
        self.problems[:] = [one for one in self.problems if one not in self.faults]
        self.faults = []
        if self.made is not None:
            self.made.settings = settings
        before = self.fleets.current
        known = (*before.upstreams, *self.fleets.leaving)
        local, *others = self._upstreams((plan.local, *plan.others), known)
        fleet = Fleet(before.mode, before.reason, local, tuple(others))
        self.prober.obey(settings.health)
        self.pools.obey(portions.times(settings))
        self.line.obey(settings, plan.router)
        self.guard.obey(portions.limits(settings, most_files()))
        self.door.obey(self._rules(fleet))
        self.scopes.obey(protect=settings.protect, tokens=self.door.rules.tokens)
        self.guard.forget_heads()
        self.choices.obey(portions.overridable(settings))
        self.fleets.replace(fleet)
        self._settle()
        self.pools.keep(one.node.id for one in fleet.upstreams)

    def _plan(self, settings: Settings) -> _Plan:
        problems = list(settings.faults)
        local = local_node(settings.server.node_id, settings.local.address, settings.num_parallel)
        others: tuple[Node, ...] = ()
        try:
            others = parse_nodes(settings.nodes.text)
        except ConfigError as error:
            problems += error.problems
        others = tuple(one for one in others if one not in self.ourselves)
        dice = random.Random()  # noqa: S311  spreads load, hides nothing
        names = {"local", local.id, *(one.id for one in others)}
        router = open_router(settings.routing, names, dice, problems)
        return _Plan(local, others, router, problems)

    # nodes and state

    def _fleet(self, plan: _Plan) -> Fleet:
        settings, others = self.settings, self._upstreams(plan.others)
        mode, reason = decide(
            distributed=settings.distributed,
            standalone=settings.standalone,
            choice=None,
            known=bool(others),
            answers=True,
        )
        return Fleet(mode, reason, self._upstreams([plan.local])[0], others)

    def _upstreams(
        self, nodes: Sequence[Node], known: Sequence[Upstream] = ()
    ) -> tuple[Upstream, ...]:
        """Those that are known under the same id and at the same place, else new ones."""
        found = {(one.node.id, one.node.place): one for one in known}
        rules = self.settings
        upstreams = []
        for node in nodes:
            upstream = found.get((node.id, node.place))
            if upstream is None:
                upstream = Upstream(node, health=rules.health, circuit=rules.circuit)
            else:
                upstream.declare(node)
                upstream.obey(rules.health, rules.circuit)
            upstreams.append(upstream)
        return tuple(upstreams)

    def _state(self) -> tuple[Store, Events]:
        state = self.settings.state
        self.store_kind = state.store.partition(":")[0]
        store: Store
        try:
            store, bus = open_store(state.store, state.dir, self.clock), open_bus(state.store)
        except (ConfigError, StateError) as error:
            self.problems.append(error.text)
            # Calls are answered all the same; what has to outlive this process is refused.
            store, bus = UnusableStore(error.text), open_bus("memory")
        return store, Events(bus, self.settings.server.node_id, self.clock)

    def _settle(self) -> None:
        if self.made is not None:
            self.made.settle()

    def _around(self) -> Around:
        return Around(
            clock=self.clock,
            rules=self.settings.health,
            backend=lambda upstream: BACKENDS[upstream.node.kind](
                Client(upstream, lambda: _tls(self.settings))
            ),
            lookup=Resolver(),
            dice=random.random,
            ourselves=self._ourselves,
            found=self._found_ourselves,
        )

    def _ourselves(self, sidecar: Sidecar) -> bool:
        return sidecar.boot == self.boot

    def _found_ourselves(self, node_id: str) -> None:
        log.get(__name__).warning("this node is this sidecar itself; it is left out", node=node_id)
        fleet = self.fleets.current
        self.ourselves |= {one.node for one in fleet.others if one.node.id == node_id}
        # An entry that leads back here would be asked in a circle.
        others = tuple(one for one in fleet.others if one.node.id != node_id)
        self.fleets.replace(Fleet(fleet.mode, fleet.reason, fleet.local, others))
        self._settle()

    # numbers

    def _known(self, model: str) -> bool:
        key = canonical(model)
        return key is not None and bool(self.fleets.current.holders(key))

    def _states(self) -> list[tuple[str, str]]:
        now = self.clock.monotonic()
        return [(one.node.id, one.state_word(now)) for one in self.fleets.current.upstreams]

    # the door

    def _rules(self, fleet: Fleet) -> Rules:
        host = self.host
        return portions.rules(self.settings, fleet, host.name, lambda: host.names | host.addresses)

    def _facts(self) -> Facts:
        return Facts(
            node_id=self.settings.server.node_id,
            paths=PATHS,
            prefixes=PREFIXES,
            rights=lambda call: rights(call, self.settings.protect, self.door.token),
            nonce=self.boot.encode(),
        )

    async def _ask_origin(self, origin: bytes) -> Verdict:
        headers: list[Header] = [(b"Host", b"localhost"), (b"Origin", origin)]
        # As a browser would ask, under a name that stock always takes.
        reply = await self.line.local.answer(ask.inner("OPTIONS", "/", headers), None)
        await ask.whole(reply, _SMALL)
        return verdict(reply.status, reply.headers)

    def _unbounded(self, address: str) -> bool:
        """Whether an address may have any number of connections: nodes, and listed proxies."""
        if any(address in one.addresses for one in self.fleets.current.others):
            return True
        peer = ipaddress.ip_address(address)
        return any(peer in network for network in self.settings.trusted_proxies)


def _tls(settings: Settings) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=settings.ca_file)


def create_app(settings: Settings | None = None) -> Callable[..., object]:
    """The sidecar as an ASGI application, for any server.

    What only our own protocol class can do is listed in `docs/asgi.md`.
    """
    load = Settings.load if settings is None else None
    runtime = build(settings or Settings.load(), load=load)
    return application(runtime)


def application(runtime: Runtime) -> Callable[..., object]:
    """The ASGI application of a runtime: our own routes, and everything else through the edge."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        loops = runtime.loops()
        await loops.start()
        try:
            yield
        finally:
            await loops.stop()

    routes = own_routes(runtime.door, runtime.scopes, runtime.parts())
    own = Starlette(routes=routes, lifespan=lifespan)
    return asgi.Application(own, runtime.edge)
