"""Builds the Runtime from Settings: gives each part what it needs, nothing more.

The only place that sees every room. What a lower room needs of an upper one it
is given here as a callable.
"""

import ipaddress
import random
import secrets
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette

from ollama_wrap.api import asgi
from ollama_wrap.api.edge import Edge, Facts
from ollama_wrap.api.guards import Door, Rules
from ollama_wrap.api.origins import Verdict, verdict
from ollama_wrap.api.rights import rights
from ollama_wrap.api.routes import PATHS, PREFIXES, own_routes
from ollama_wrap.api.scopes import Scopes
from ollama_wrap.api.shapes import active
from ollama_wrap.backends import BACKENDS, Client
from ollama_wrap.call import Call, Header, Kind
from ollama_wrap.clock import Clock, SystemClock
from ollama_wrap.cluster.choices import Choices, Overridable
from ollama_wrap.cluster.events import Events
from ollama_wrap.cluster.prober import Prober
from ollama_wrap.cluster.resolver import Resolver
from ollama_wrap.cluster.sightings import Sightings
from ollama_wrap.cluster.watch import Around
from ollama_wrap.config import Settings
from ollama_wrap.errors import ConfigError, StateError
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.nodes.mode import decide
from ollama_wrap.nodes.names import canonical
from ollama_wrap.nodes.node import Node, local_node, parse_nodes
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.observe import log
from ollama_wrap.observe.ended import Ended
from ollama_wrap.observe.host import Host
from ollama_wrap.observe.metrics import Metrics
from ollama_wrap.proxy import ask
from ollama_wrap.proxy.admit import Admission, Hold
from ollama_wrap.proxy.budget import Allowance, Budget
from ollama_wrap.proxy.cache import Cache
from ollama_wrap.proxy.limits import Waits
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.pipeline import Chains, Pipeline, Responders, Told
from ollama_wrap.proxy.responders.cached import Cached
from ollama_wrap.proxy.responders.follow import Follow
from ollama_wrap.proxy.responders.local import Local
from ollama_wrap.proxy.responders.merged import Merged
from ollama_wrap.proxy.responders.ranked import Ranked
from ollama_wrap.proxy.responders.spread import Spread
from ollama_wrap.routing.routed import open_router
from ollama_wrap.runtime import Runtime
from ollama_wrap.state import open_bus, open_store
from ollama_wrap.state.base import Store
from ollama_wrap.wire.guard import Guard, Limits, Upload
from ollama_wrap.wire.head import Sizes
from ollama_wrap.wire.pool import Alive
from ollama_wrap.wire.pools import Pools, Times

#: Bytes of an answer to a question of our own about one Origin.
_SMALL = 64 * 1024


def build(settings: Settings, clock: Clock | None = None) -> Runtime:
    """All parts, none of them running. Raises StoreUnavailable for the state folder."""
    return _Builder(settings, clock or SystemClock()).runtime()


class _Builder:
    """Makes the parts in the order in which they need each other."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.boot = secrets.token_hex(8)
        self.problems = list(settings.faults)
        self.host = Host()
        self.fleets = Fleets(self._fleet())
        self.store, self.events = self._state()
        self.choices = Choices(self.store, self._overridable(), self.events, self._settle)
        self.metrics = Metrics(self._known, self._states)
        self.pools = Pools(self._times(), lambda: _tls(settings))
        self.prober = Prober(
            self.fleets,
            self._around(),
            Sightings(self.store, settings.health.seen),
            self.pools.close,
        )
        self.wire = self._wire()
        self.local = Local(self.wire)
        self.made: Runtime | None = None

    def runtime(self) -> Runtime:
        """Everything."""
        pipeline = self._pipeline()
        door = Door(self._rules(), self._ask_origin, self.clock)
        edge = Edge(door, pipeline, self.fleets, self._facts(door), self.clock)
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
            pipeline=pipeline,
            door=door,
            edge=edge,
            guard=Guard(self._limits(), self._unbounded),
            boot=self.boot,
            store_kind=self.store_kind,
            problems=self.problems,
        )
        return self.made

    # nodes and state

    def _fleet(self) -> Fleet:
        settings = self.settings
        local = local_node(settings.server.node_id, settings.local.address, settings.num_parallel)
        others: tuple[Node, ...] = ()
        try:
            others = parse_nodes(settings.nodes.text)
        except ConfigError as error:
            self.problems += error.problems
        upstreams = tuple(self._upstream(node) for node in others)
        mode, reason = decide(
            distributed=settings.distributed,
            standalone=settings.standalone,
            choice=None,
            known=bool(upstreams),
            answers=True,
        )
        return Fleet(mode, reason, self._upstream(local), upstreams)

    def _upstream(self, node: Node) -> Upstream:
        settings = self.settings
        return Upstream(node, health=settings.health, circuit=settings.circuit)

    def _state(self) -> tuple[Store, Events]:
        state = self.settings.state
        try:
            store, bus = open_store(state.store, state.dir, self.clock), open_bus(state.store)
            self.store_kind = state.store.partition(":")[0]
        except (ConfigError, StateError) as error:
            self.problems.append(error.text)
            # Without a store nothing outlives this process; calls are answered all the same.
            store, bus = open_store("memory", state.dir, self.clock), open_bus("memory")
            self.store_kind = "memory"
        return store, Events(bus, self.settings.server.node_id, self.clock)

    def _overridable(self) -> Overridable:
        settings = self.settings
        return Overridable(settings.distributed, settings.standalone, settings.fallback)

    def _settle(self) -> None:
        if self.made is not None:
            self.made.settle()

    def _around(self) -> Around:
        settings = self.settings
        return Around(
            clock=self.clock,
            rules=settings.health,
            backend=lambda upstream: BACKENDS[upstream.node.kind](
                Client(upstream, lambda: _tls(settings))
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

    # the line

    def _times(self) -> Times:
        up = self.settings.upstream
        alive = Alive(up.tcp_idle, up.tcp_interval, up.tcp_count, up.tcp_user_timeout)
        return Times(up.connect_local, up.connect, up.connect_tls, up.keepalive_expiry, alive)

    def _wire(self) -> Wire:
        up = self.settings.upstream
        return Wire(
            pools=self.pools,
            fleets=self.fleets,
            clock=self.clock,
            waits=Waits(
                up.first_byte_meta,
                up.first_byte_show,
                up.first_byte,
                up.first_byte_once,
                up.write_idle,
                up.idle,
                up.total,
            ),
            node_id=self.settings.server.node_id,
            suspect=self.prober.suspect,
            refresh=lambda node_id: self.prober.refresh(node_id, models=True),
            warmed=self.prober.warmed,
            reread=self.prober.reread,
            probe=self.prober.probe,
            secret=self._is_secret,
        )

    def _is_secret(self, credential: bytes) -> bool:
        return self.made is not None and self.made.door.token.ours(credential)

    def _pipeline(self) -> Pipeline:
        settings = self.settings
        retry, queue, up = settings.retry, settings.queue, settings.upstream
        budget = Budget(
            Allowance(
                retry.attempts,
                retry.share,
                retry.least,
                up.replay_limit,
                up.replay_total,
                retry.backoff,
                retry.backoff_max,
            )
        )
        dice = random.Random()  # noqa: S311  spreads load, hides nothing
        router = open_router(settings.routing, self.fleets.current, dice, self.problems)
        hold = Hold(queue.hold, queue.per_key, queue.total)
        admission = Admission(self.fleets, self.clock, hold, self.metrics.waiting)
        ranked = Ranked(
            self.wire, router, admission, budget, lambda: self.choices.fallback, self.metrics.retry
        )
        cache = Cache(
            settings.cache,
            self.fleets,
            self.clock,
            lambda: len(pipeline.running),
            self.metrics.cache_holds,
        )
        self.metrics.refresh = cache.settle
        pipeline = Pipeline(
            Chains(self._responders(ranked, cache)),
            ranked.rank,
            Told(self._ended, self.metrics.running, cache.store, cache.keep),
            budget,
            self.clock,
            ranked.begin,
        )
        return pipeline

    def _responders(self, ranked: Ranked, cache: Cache) -> Responders:
        wire, local, metrics = self.wire, self.local, self.metrics
        return Responders(
            ranked=ranked,
            cached=Cached(
                cache,
                self.clock,
                lambda: self.choices.fallback,
                metrics.cache_hit,
                metrics.cache_miss,
            ),
            local=local,
            merged=Merged(self.fleets, local, self.settings.upstream.list_wait, active),
            spread=Spread(wire, ranked, self._trusted),
            follow=Follow(wire, local, ranked, self._trusted),
        )

    def _trusted(self, call: Call) -> bool:
        return self.made is not None and self.made.door.token.valid(call)

    def _ended(self, ended: Ended, kind: Kind) -> None:
        log.request(ended)
        self.metrics.ended(ended, kind)
        if ended.fallback is not None:
            self.metrics.fallback(ended.fallback)

    # the door

    def _rules(self) -> Rules:
        settings = self.settings
        token = settings.admin_token
        local = self.fleets.current.local.node
        return Rules(
            listeners=tuple(map(str, settings.server.listen)),
            origins=settings.origins,
            allowed_hosts=frozenset(settings.allowed_hosts),
            node_hosts=frozenset(one.node.host for one in self.fleets.current.others),
            trusted_proxies=settings.trusted_proxies,
            protect=settings.protect,
            admin_token=token.get_secret_value() if token is not None else None,
            tokens=settings.jwt_secret is not None,
            local_loopback=local.host in {"localhost", "::1"} or local.host.startswith("127."),
            hostname=self.host.name,
            machine=lambda: self.host.names | self.host.addresses,
        )

    def _facts(self, door: Door) -> Facts:
        return Facts(
            node_id=self.settings.server.node_id,
            paths=PATHS,
            prefixes=PREFIXES,
            rights=lambda call: rights(call, self.settings.protect, door.token),
            nonce=self.boot.encode(),
        )

    async def _ask_origin(self, origin: bytes) -> Verdict:
        headers: list[Header] = [(b"Host", b"localhost"), (b"Origin", origin)]
        # As a browser would ask, under a name that stock always takes.
        reply = await self.local.answer(ask.inner("OPTIONS", "/", headers), None)
        await ask.whole(reply, _SMALL)
        return verdict(reply.status, reply.headers)

    def _limits(self) -> Limits:
        client, up = self.settings.client, self.settings.upstream
        return Limits(
            first_byte=client.first_byte,
            header_deadline=client.header_deadline,
            body=Upload(client.body_idle, client.body_min_rate, 10.0),
            blob=Upload(client.blob_body_idle, client.blob_min_rate, 60.0),
            body_total=client.body_total,
            keepalive_idle=client.keepalive_idle,
            write_stall=client.write_stall,
            write_stall_once=client.write_stall_once,
            connections=client.max_connections,
            connections_per_address=client.max_per_address,
            streams=client.max_streams,
            sizes=Sizes(client.max_head, client.max_field, client.max_target, client.max_fields),
            marks=(up.relay_high, min(up.relay_low, up.relay_high)),
            buffered=up.relay_total,
        )

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
    runtime = build(settings or Settings.load())
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

    door = runtime.door
    scopes = Scopes(door.token, protect=runtime.settings.protect, tokens=door.rules.tokens)
    own = Starlette(routes=own_routes(door, scopes, runtime.parts()), lifespan=lifespan)
    return asgi.Application(own, runtime.edge)
