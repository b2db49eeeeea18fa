"""Prober: watches the nodes of the present Fleet, on a timer, and when told to look now.

Owns whom to watch, what is asked of all at once, and what outlives a restart.
Must not know how a node is asked (`watch.py`), nor who is asked by clients.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ollama_wrap import tasks
from ollama_wrap.call import Mode
from ollama_wrap.cluster.sightings import Sightings
from ollama_wrap.cluster.watch import Around, Flag, Watch
from ollama_wrap.config.groups import Health as Rules
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.nodes.mode import ModeReason
from ollama_wrap.nodes.upstream import Upstream

log = logging.getLogger(__name__)

#: seconds between two looks at the clocks, and two writes of what was seen where
LOOK_EVERY = 1.0
SAVE_EVERY = 5.0
#: seconds that whoever changed a node's models waits until they are known
REREAD = 1.0
#: seconds by which wall time may leave monotonic time at once
JUMP = 5.0


class Prober:
    """Watches nodes.

    `first_round` is set when our own Ollama was asked for the first time,
    whatever came of it. `woke()` is called when this machine slept, or its clock
    was set: connections that were idle are worth nothing.
    """

    def __init__(
        self, fleets: Fleets, around: Around, sightings: Sightings, woke: Callable[[], None]
    ) -> None:
        self._fleets = fleets
        self._around = around
        self._clock = around.clock
        self._sightings = sightings
        self._woke = woke
        self._fleet: Fleet | None = None
        self._watches: dict[str, Watch] = {}
        #: of nodes that have left, while calls of ours are there
        self._parting: dict[Upstream, Watch] = {}
        self._loops: list[asyncio.Task[None]] = []
        self.first_round = asyncio.Event()

    async def start(self) -> None:
        """Watch from now on; what earlier runs saw is there when this returns."""
        await self._sightings.load(self._clock.now())
        self._loops = [
            tasks.start(self._save(), "sightings"),
            tasks.start(self._notice_jumps(), "clock jumps"),
        ]
        self._fleets.changed.subscribe(self._follow)
        self._follow()

    async def stop(self) -> None:
        """Ask no more, and write down what was seen."""
        self._fleets.changed.unsubscribe(self._follow)
        await tasks.stop(*self._loops)
        for watch in (*self._watches.values(), *self._parting.values()):
            await watch.stop()
            watch.remember()
        await self._sightings.save()

    def obey(self, rules: Rules) -> None:
        """Go by other rules from now on."""
        self._sightings.keep = rules.seen
        self._around = replace(self._around, rules=rules)
        for watch in self._watches.values():
            watch.obey(self._around)

    def hasten(self) -> None:
        """Ask all nodes now."""
        for watch in self._watches.values():
            watch.hasten()

    def refresh(self, node_id: str, *, models: bool = False) -> None:
        """Ask the node now; `models`: what it has may have changed."""
        if (watch := self._watches.get(node_id)) is not None:
            watch.hasten()
            if models:
                watch.reread()

    def warmed(self, node_id: str, key: str) -> None:
        """A model that was not in memory there answers now."""
        if (watch := self._watches.get(node_id)) is not None:
            watch.warmed(key)

    async def reread(self, node_id: str) -> None:
        """Come back when the node's lists have been read anew, or soon anyway."""
        if (watch := self._watches.get(node_id)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(REREAD):
                    await watch.listed()

    def suspect(self, node_id: str) -> None:
        """A call failed there: it is in doubt until it has answered a probe, which begins now."""
        if (watch := self._watches.get(node_id)) is not None:
            watch.doubt()

    async def probe(self, node_id: str) -> None:
        """Ask the node now, and come back when its health says what came of it."""
        if (watch := self._watches.get(node_id)) is not None:
            await watch.probed()

    def flags(self, node_id: str) -> frozenset[Flag]:
        """What is odd about a node and changes nothing of its state."""
        watch = self._watches.get(node_id)
        return frozenset(watch.flags if watch is not None else ())

    def _follow(self) -> None:
        fleet, leaving = self._fleets.current, self._fleets.leaving
        if fleet is self._fleet and len(leaving) == len(self._parting):
            return
        self._fleet = fleet
        asked = {one.node.id: one for one in _asked(fleet)}
        for node_id, watch in list(self._watches.items()):
            if asked.get(node_id) is not watch.upstream:
                self._parting[watch.upstream] = self._watches.pop(node_id)
        # While a call is at a node that has left, somebody has to notice if the node goes away.
        for upstream, watch in list(self._parting.items()):
            if asked.get(upstream.node.id) is upstream:
                self._watches[upstream.node.id] = self._parting.pop(upstream)
            elif upstream not in leaving:
                del self._parting[upstream]
                tasks.start(watch.stop(), f"leave {upstream.node.id}")
        for node_id, upstream in asked.items():
            if node_id not in self._watches:
                self._recall(upstream)
                watch = self._watches[node_id] = Watch(upstream, self._around, self._sightings)
                if upstream is fleet.local:
                    watch.first = self.first_round
                watch.start()

    def _recall(self, upstream: Upstream) -> None:
        known = self._sightings.of(upstream.node.id)
        if known is None or upstream.inventory.known:
            return
        upstream.inventory = replace(upstream.inventory, seen=known.models)
        if upstream.health.last_seen_wall is None:
            upstream.health = replace(upstream.health, last_seen_wall=known.answered)

    async def _notice_jumps(self) -> None:
        ahead = self._clock.now() - self._clock.monotonic()
        while True:
            await self._clock.sleep(LOOK_EVERY)
            before, ahead = ahead, self._clock.now() - self._clock.monotonic()
            if abs(ahead - before) > JUMP:
                log.warning("the clock jumped by %.0f s: all nodes are asked anew", ahead - before)
                self._wake_up()

    def _wake_up(self) -> None:
        self._woke()
        for watch in self._watches.values():
            if watch.upstream.node.local:
                watch.hasten()
            else:
                watch.doubt()
            watch.reread()

    async def _save(self) -> None:
        while True:
            await self._clock.sleep(SAVE_EVERY)
            await self._sightings.save()


def _asked(fleet: Fleet) -> tuple[Upstream, ...]:
    """Others are asked while they are used, and while we wait for one of them to come back."""
    waiting = fleet.reason == ModeReason.NO_NODE_ANSWERS
    return fleet.upstreams if waiting or fleet.mode is Mode.DISTRIBUTED else (fleet.local,)
