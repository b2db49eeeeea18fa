"""Runtime: the parts of a running sidecar, and the loops that keep them running."""

import asyncio
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from ollama_wrap import __version__
from ollama_wrap.api.edge import Edge
from ollama_wrap.api.guards import Door
from ollama_wrap.api.plan import NONCE
from ollama_wrap.api.scopes import Scopes
from ollama_wrap.api.surface import About, Parts
from ollama_wrap.backends.client import Client, Question
from ollama_wrap.clock import Clock
from ollama_wrap.cluster.choices import Choices
from ollama_wrap.cluster.chronicle import Chronicle
from ollama_wrap.cluster.events import Events
from ollama_wrap.cluster.prober import Prober
from ollama_wrap.cluster.resolver import Resolver, literal
from ollama_wrap.config import Settings
from ollama_wrap.errors import StateError, UpstreamError
from ollama_wrap.lifecycle import Loops, Reload
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.nodes.mode import decide
from ollama_wrap.nodes.node import Node
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.observe import log
from ollama_wrap.observe.host import REFRESH_AFTER, Host, memory_allowed
from ollama_wrap.observe.metrics import Metrics
from ollama_wrap.observe.pressure import Gauge, Strain
from ollama_wrap.proxy.admit import retry_after
from ollama_wrap.proxy.overload import Overload
from ollama_wrap.proxy.pipeline import Pipeline
from ollama_wrap.state.base import Store
from ollama_wrap.wire.guard import Guard
from ollama_wrap.wire.pools import Pools

#: seconds after its last ping that a sidecar is thought to use us
PEER = 30.0
#: seconds within which a question that leads back here has come back
SELF_TEST = 2.0


@dataclass(slots=True)
class Runtime:
    """The parts of a running sidecar; `lifecycle` starts and stops them."""

    settings: Settings
    clock: Clock
    store: Store
    events: Events
    choices: Choices
    fleets: Fleets
    prober: Prober
    pools: Pools
    metrics: Metrics
    host: Host
    pipeline: Pipeline
    door: Door
    scopes: Scopes
    edge: Edge
    guard: Guard
    strain: Strain
    boot: str
    #: the word of the store in use: sqlite, memory
    store_kind: str
    #: settings that could not be used: the mode is local while there are any
    problems: list[str]
    #: reads the settings anew; None: they were not read
    reload: Reload | None = None
    #: takes no new calls; peers and load balancers are told
    draining: bool = False
    #: monotonic time of the last ping of another sidecar
    pinged_at: float = -math.inf
    chronicle: Chronicle = field(init=False)
    overload: Overload = field(init=False)

    def __post_init__(self) -> None:
        self.chronicle = Chronicle(self.fleets, self.events, self.clock)
        gauge = Gauge(lambda: self.settings.memory_limit, memory_allowed())
        self.overload = Overload(gauge, self.strain, self._retry_after, self.clock)

    def loops(self) -> Loops:
        """What runs while the sidecar does."""
        return Loops(
            before=[self._load, self.prober.start],
            run={
                "events": self.events.run,
                "guard": self.guard.run,
                "host": self._refresh_host,
                "overload": self.overload.run,
            },
            after=[self.prober.stop, self._close],
        )

    def parts(self) -> Parts:
        """What our own surfaces read and change."""
        settings = self.settings
        about = About(
            node_id=settings.server.node_id,
            boot=self.boot,
            version=__version__,
            listen=tuple(map(str, settings.server.listen)),
            store=self.store_kind,
            started=self.clock.monotonic(),
        )
        return Parts(
            about=about,
            fleets=self.fleets,
            choices=self.choices,
            metrics=self.metrics,
            running=self.pipeline.running,
            store=self.store,
            clock=self.clock,
            ready=lambda: self.prober.first_round.is_set(),  # noqa: PLW0108  known once started
            draining=lambda: self.draining,
            pinged=self._pinged,
            reload=self.reload,
            strain=self.strain,
        )

    def used_by_peers(self) -> bool:
        """Whether another sidecar may be sending calls here: it asked how we are of late."""
        return self.clock.monotonic() - self.pinged_at < PEER

    def leave_to_others(self) -> None:
        """New calls go to other nodes from now on, where one can take them."""
        local, clock = self.fleets.current.local, self.clock
        local.health = local.health.draining(on=True, now=clock.monotonic(), wall=clock.now())

    def _pinged(self) -> None:
        self.pinged_at = self.clock.monotonic()

    def _retry_after(self) -> int:
        """For calls that are turned away, whatever they ask for."""
        waiting = self.metrics.totals().waiting
        return retry_after(waiting, self.fleets.current.upstreams, None)

    async def _load(self) -> None:
        for problem in self.problems:
            log.get(__name__).error(problem)
        try:
            await self.choices.load()
        except StateError as error:
            # Whether other nodes may be used is not known: the mode that does no harm.
            if error.text not in self.problems:
                self.problems.append(error.text)
            log.get(__name__).error("stored choices cannot be read", error=error.text)
        self.fleets.changed.subscribe(self.settle)
        self.settle()
        self.chronicle.start()

    async def _refresh_host(self) -> None:
        while True:
            await self.clock.sleep(REFRESH_AFTER)
            before = self.host.addresses
            self.host.refresh()
            # A network is back: nodes that sleep are probed seldom, and may be there again.
            if self.host.addresses - before:
                self.prober.hasten()

    async def _close(self) -> None:
        self.chronicle.stop()
        self.fleets.changed.unsubscribe(self.settle)
        self.pools.close()
        await self.store.close()

    def settle(self) -> None:
        """Put the mode in force that settings, choices and nodes ask for now."""
        fleet = self.fleets.current
        mode, reason = decide(
            # What could not be read may have named nodes that nobody is to use.
            distributed=False if self.problems else self.settings.distributed,
            standalone=self.settings.standalone,
            choice=self.choices.mode,
            known=bool(fleet.others),
            answers=fleet.answering(),
        )
        if (mode, reason) != (fleet.mode, fleet.reason):
            self.fleets.replace(Fleet(mode, reason, fleet.local, fleet.others))


async def leads_here(node: Node, boot: str, tls: Callable[[], ssl.SSLContext]) -> bool:
    """Whether questions to this node come to this process: one with a mark that only we know."""
    upstream = Upstream(node)
    question = Question("/api/version", 64 * 1024, SELF_TEST, headers=((NONCE, boot.encode()),))
    client = Client(upstream, tls)
    try:
        async with asyncio.timeout(SELF_TEST):
            upstream.addresses = literal(node.host) or await Resolver()(node.host)
            answer = await client.ask(question)
    except (UpstreamError, TimeoutError):
        return False  # nobody is there yet, which is no loop
    finally:
        await client.close()
    return answer.status == 508
