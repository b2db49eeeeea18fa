"""The line that answers calls, from settings: responders in their chains, and what they share.

Other settings make other responders: new calls take those, and calls under way keep
the ones they began with. What is counted for all of them, budget, queue, kept
answers and open calls, stays one. Must not know doors, stores or how nodes are watched.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ollama_wrap import portions
from ollama_wrap.api.shapes import active
from ollama_wrap.call import Call, Kind
from ollama_wrap.clock import Clock
from ollama_wrap.cluster.prober import Prober
from ollama_wrap.config import Settings
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.observe import log
from ollama_wrap.observe.ended import Ended
from ollama_wrap.observe.metrics import Metrics
from ollama_wrap.observe.pressure import Strain
from ollama_wrap.proxy.admit import Admission
from ollama_wrap.proxy.budget import Budget
from ollama_wrap.proxy.cache import Cache
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.pipeline import Chains, Pipeline, Responders, Told
from ollama_wrap.proxy.responders.cached import Cached
from ollama_wrap.proxy.responders.follow import Follow
from ollama_wrap.proxy.responders.local import Local
from ollama_wrap.proxy.responders.merged import Merged
from ollama_wrap.proxy.responders.ranked import Ranked
from ollama_wrap.proxy.responders.spread import Spread
from ollama_wrap.proxy.strange import Strange
from ollama_wrap.routing.router import Router
from ollama_wrap.wire.pools import Pools


@dataclass(frozen=True, slots=True)
class Beside:
    """What stands beside the line.

    `fallback`: whether an operator lets a second node be asked. `secret`: a credential
    of ours; `trusted`: a call that carries one.
    """

    clock: Clock
    fleets: Fleets
    pools: Pools
    prober: Prober
    metrics: Metrics
    strain: Strain
    fallback: Callable[[], bool]
    secret: Callable[[bytes], bool]
    trusted: Callable[[Call], bool]


class Line:
    """The line; `local` is the responder that asks our own Ollama."""

    def __init__(self, settings: Settings, router: Router, beside: Beside) -> None:
        self._settings = settings
        self._beside = beside
        fleets, clock, metrics = beside.fleets, beside.clock, beside.metrics
        self._wire = _wire(settings, beside)
        self._budget = Budget(portions.allowance(settings), strain=beside.strain)
        self._admission = Admission(fleets, clock, portions.hold(settings), metrics.waiting)
        self._cache = Cache(
            settings.cache,
            fleets,
            clock,
            lambda: self._budget.running,
            metrics.cache_holds,
            beside.strain,
        )
        metrics.refresh = self._cache.settle
        self.local = Local(self._wire)
        self._ranked = self._ranks(router)
        self.pipeline = Pipeline(
            Chains(self._responders()),
            self._ranked.rank,
            Told(self._ended, self._cache.store, self._cache.keep),
            self._budget,
            clock,
            self._ranked.begin,
        )
        metrics.running = self.pipeline.running.__len__

    def obey(self, settings: Settings, router: Router) -> None:
        """Answer by other settings from now on."""
        before, self._settings = self._settings, settings
        self._budget.allowance = portions.allowance(settings)
        self._admission.hold = portions.hold(settings)
        if settings.cache != before.cache:
            self._cache.obey(settings.cache)
        retired = self._ranked
        self._wire = replace(self._wire, waits=portions.waits(settings))
        self.local = Local(self._wire)
        self._ranked = self._ranks(router)
        self.pipeline.obey(Chains(self._responders()), self._ranked.rank, self._ranked.begin)
        retired.retire()

    def _ranks(self, router: Router) -> Ranked:
        beside = self._beside
        return Ranked(
            self._wire,
            router,
            self._admission,
            self._budget,
            beside.fallback,
            beside.metrics.retry,
        )

    def _responders(self) -> Responders:
        beside, wire, local, ranked = self._beside, self._wire, self.local, self._ranked
        metrics, wait = beside.metrics, self._settings.upstream.list_wait
        return Responders(
            ranked=ranked,
            cached=Cached(
                self._cache, beside.clock, beside.fallback, metrics.cache_hit, metrics.cache_miss
            ),
            local=local,
            merged=Merged(beside.fleets, local, wait, active),
            spread=Spread(wire, ranked, beside.trusted),
            follow=Follow(wire, local, ranked, beside.trusted),
        )

    def _ended(self, ended: Ended, kind: Kind) -> None:
        log.request(ended)
        self._beside.metrics.ended(ended, kind)
        if ended.fallback is not None:
            self._beside.metrics.fallback(ended.fallback)


def _wire(settings: Settings, beside: Beside) -> Wire:
    prober = beside.prober
    return Wire(
        pools=beside.pools,
        fleets=beside.fleets,
        clock=beside.clock,
        waits=portions.waits(settings),
        node_id=settings.server.node_id,
        suspect=prober.suspect,
        refresh=lambda node_id: prober.refresh(node_id, models=True),
        warmed=prober.warmed,
        reread=prober.reread,
        probe=prober.probe,
        secret=beside.secret,
        strange=Strange(beside.clock),
    )
