"""Watch: one node under watch. What it is asked, and what its answers mean for its Upstream.

    loop       how often          what it keeps up to date
    probe      every 2 s          health, sidecar
    list       every 5 or 10 s    inventory
    look up    every 30 s         addresses

Each loop asks one question at a time, and one that is slow does not hold up the
others. Must not know other nodes, nor how a question travels.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from ollama_wrap import tasks
from ollama_wrap.backends.base import Backend, Probe
from ollama_wrap.clock import Clock
from ollama_wrap.cluster.beat import Beat
from ollama_wrap.cluster.due import Due
from ollama_wrap.cluster.resolver import Lookup, literal
from ollama_wrap.cluster.sightings import Sightings
from ollama_wrap.config.groups import Health as Rules
from ollama_wrap.errors import BadReply, ConnectFailed, StreamBroken, UpstreamError, UpstreamTimeout
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.sidecar import Sidecar
from ollama_wrap.nodes.upstream import Upstream

log = logging.getLogger(__name__)

#: seconds that a list of another node may take; towards our own Ollama nothing hurries
LIST_TIMEOUT = 5.0
LOCAL_LIST_TIMEOUT = 60.0
#: seconds after which a list shows that the node's disk is slow
SLOW = 5.0
#: seconds after which a name is looked up again
LOOK_UP_AGAIN = 30.0
#: seconds by which a sidecar's clock may differ from ours
SKEW = 5.0
#: least seconds between two probes, lists and lookups, however often they are asked for
LEAST = 0.1
LEAST_LOOK_UP = 5.0
#: seconds in which a model that is loaded again and again has the lists read once; most of them
WARM_AGAIN = 5.0
KEPT = 256


class Flag(StrEnum):
    """What is odd about a node and changes nothing of its state.

    A slow disk keeps models away that would have to be loaded first.
    """

    CLOCK_SKEW = "clock-skew"
    SLOW_DISK = "slow-disk"


@dataclass(frozen=True, slots=True)
class Around:
    """What a Watch needs of the world; `dice` gives numbers from 0 to 1.

    `ourselves(sidecar)`: whether that is this process. `found(node id)`: it was.
    """

    clock: Clock
    rules: Rules
    backend: Callable[[Upstream], Backend]
    lookup: Lookup
    dice: Callable[[], float]
    ourselves: Callable[[Sidecar], bool]
    found: Callable[[str], None]


class Watch:
    """One node under watch, from the first question to `stop`.

    `first` is set when it was probed for the first time, whatever came of it.
    """

    def __init__(self, upstream: Upstream, around: Around, sightings: Sightings) -> None:
        self.upstream = upstream
        self.flags: set[Flag] = set()
        self.first = asyncio.Event()
        self._around = around
        self._clock = around.clock
        self._sightings = sightings
        self._backend = around.backend(upstream)
        self._due = Due(upstream, around.rules)
        self._probing = Beat(around.clock, LEAST)
        self._listing = Beat(around.clock, LEAST)
        self._looking_up = Beat(around.clock, LEAST_LOOK_UP)
        self._loops: list[asyncio.Task[None]] = []
        self._waiting: list[asyncio.Future[None]] = []
        #: those who wait for a list that begins after they asked
        self._readers: list[asyncio.Future[None]] = []
        #: when a model may have the lists read again, monotonic
        self._warmed: dict[str, float] = {}
        #: why its list could not be read; its probes count as bad until one can
        self._unreadable: str | None = None
        self._found = False

    # ---------------------------------------------------------------- for the prober

    def start(self) -> None:
        """Begin to ask; addresses that need no lookup are there when this returns."""
        node, upstream = self.upstream.node, self.upstream
        if not self._backend.able:
            error = f"nodes with kind={node.kind} cannot be asked yet"
            upstream.health = replace(upstream.health, probed=NodeState.DOWN, error=error)
            self.first.set()
            return
        loops = [
            (self._probe, self._probing, self._probe_pause),
            (self._list, self._listing, lambda: self._due.list_pause),
        ]
        if literal(node.host):
            upstream.addresses = literal(node.host)
        else:
            # Addresses never change; names do.
            loops.append((self._look_up, self._looking_up, lambda: LOOK_UP_AGAIN))
        self._loops = [
            tasks.start(self._repeat(step, beat, pause), f"{step.__name__} {node.id}")
            for step, beat, pause in loops
        ]

    def obey(self, around: Around) -> None:
        """Go by other rules from now on."""
        self._around = around
        self._due.rules = around.rules

    async def stop(self) -> None:
        """Ask no more."""
        await tasks.stop(*self._loops)
        self._loops = []
        self._wake(self._waiting + self._readers)
        await self._backend.close()

    def hasten(self) -> None:
        """Probe it now."""
        self._probing.ring()

    def reread(self) -> None:
        """Read its lists now, the stored models among them."""
        self._due.want_models()
        self._listing.ring()

    def warmed(self, key: str) -> None:
        """A model was loaded there: read soon what is in memory."""
        now = self._clock.monotonic()
        if now < self._warmed.get(key, 0.0):
            return  # it is never in memory for long
        if len(self._warmed) >= KEPT:
            self._warmed.clear()
        self._warmed[key] = now + WARM_AGAIN
        self._listing.ring()

    def doubt(self) -> None:
        """It is in doubt until it has answered a probe, which begins now."""
        now, wall = self._clock.monotonic(), self._clock.now()
        self.upstream.health = self.upstream.health.traffic_failed(now, wall)
        self._probing.ring()

    def remember(self) -> None:
        """Have it written when the node answered last; nothing if it never has."""
        upstream = self.upstream
        if (answered := upstream.health.last_seen_wall) is not None:
            self._sightings.lost(upstream.node.id, upstream.inventory.seen, answered)

    async def probed(self) -> None:
        """Probe it now; come back when its health says what came of it."""
        if self._loops:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            self._probing.ring()
            await waiting

    async def listed(self) -> None:
        """Read its lists now; come back when they are read, or could not be."""
        if self._loops:
            waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._readers.append(waiting)
            self.reread()
            await waiting

    async def _repeat(
        self, step: Callable[[], Awaitable[None]], beat: Beat, pause: Callable[[], float]
    ) -> None:
        while True:
            try:
                await step()
            except Exception:
                # A fault of ours; a node that nobody watches any more would be worse.
                log.exception("watching %s failed", self.upstream.node.id)
            await beat.rest(pause())

    # ---------------------------------------------------------------- is it there?

    def _probe_pause(self) -> float:
        return self.upstream.health.next_probe_in(self._clock.monotonic(), self._around.dice())

    async def _probe(self) -> None:
        waiting, self._waiting = self._waiting, []
        began = self._clock.monotonic()
        ping = self._due.ping(began)
        try:
            probe = await self._backend.probe(self._around.rules.timeout, ping=ping)
        except UpstreamError as error:
            self._failed(error)
        else:
            # A plain node is not asked each time whether it has become a sidecar.
            if ping and probe.sidecar is None:
                self._due.is_plain(began)
            self._answered(probe, began)
        finally:
            self.first.set()
            self._wake(waiting)

    def _failed(self, error: UpstreamError) -> None:
        upstream = self.upstream
        # No connection could be made: perhaps the name has another address by now.
        if not error.sent:
            self._looking_up.ring()
        self._bad(error)
        upstream.inventory = upstream.inventory.aged(self._clock.now(), self._around.rules.seen)

    def _answered(self, probe: Probe, began: float) -> None:
        upstream = self.upstream
        if probe.sidecar is not None and self._around.ourselves(probe.sidecar):
            self._is_us()
            return
        news = _news(upstream, probe)
        upstream.addresses = _first(probe.address, upstream.addresses)
        upstream.sidecar = probe.sidecar
        self._take_version(probe.version)
        now, wall = self._clock.monotonic(), self._clock.now()
        self._flag(Flag.CLOCK_SKEW, on=probe.wall is not None and abs(probe.wall - wall) > SKEW)
        # It answers probes, and what it lists cannot be read: no Ollama we can use.
        if self._unreadable is not None:
            self._bad(BadReply(self._unreadable))
            return
        upstream.health = upstream.health.probed_ok(now, wall, now - began)
        self._sightings.saw(upstream.node.id, upstream.inventory.seen, wall)
        if news:
            self.reread()

    def _bad(self, error: UpstreamError) -> None:
        upstream = self.upstream
        now, wall = self._clock.monotonic(), self._clock.now()
        health = upstream.health.probed_bad(now, wall, error.text, accepted=error.sent)
        upstream.health = health
        if health.probed is NodeState.DOWN:
            self.remember()

    def _is_us(self) -> None:
        if not self._found:
            self._found = True
            self._around.found(self.upstream.node.id)

    def _flag(self, flag: Flag, *, on: bool) -> None:
        if on == (flag in self.flags):
            return
        (self.flags.add if on else self.flags.discard)(flag)
        log.warning("%s: %s%s", self.upstream.node.id, "" if on else "no more ", flag)
        if flag is Flag.SLOW_DISK:
            self.upstream.slow_disk = on
            self.upstream.changed.fire()

    def _wake(self, waiting: list[asyncio.Future[None]]) -> None:
        for one in waiting:
            if not one.done():
                one.set_result(None)

    # ---------------------------------------------------------------- what has it?

    async def _list(self) -> None:
        waiting, self._readers = self._readers, []
        try:
            if self._due.lists(unreadable=self._unreadable is not None):
                await self._list_now(self._clock.monotonic())
        finally:
            self._wake(waiting)

    async def _list_now(self, began: float) -> None:
        try:
            await self._read_lists(began)
        except UpstreamError as error:
            self._unlisted(error)
        else:
            self._unreadable = None
            self._flag(Flag.SLOW_DISK, on=self._clock.monotonic() - began > SLOW)

    async def _read_lists(self, began: float) -> None:
        upstream, backend = self.upstream, self._backend
        limit = LOCAL_LIST_TIMEOUT if upstream.node.local else LIST_TIMEOUT
        if self._due.models(began):
            self._due.asked_models(began)
            models = await backend.models(limit)
            wall = self._clock.now()
            upstream.inventory = upstream.inventory.listed(models, wall)
            self._sightings.saw(upstream.node.id, upstream.inventory.seen, wall)
        before, loaded = upstream.inventory.loaded, await backend.loaded(limit)
        upstream.inventory = upstream.inventory.running(loaded)
        # What went made room: a model that did not fit may fit now.
        if gone := before.keys() - upstream.inventory.loaded.keys():
            upstream.forgive(gone)
        if upstream.sidecar is not None:
            self._take_version(await backend.version(limit))

    def _unlisted(self, error: UpstreamError) -> None:
        """What was known stays; a list that cannot be read shows that this is no Ollama."""
        self._due.want_models()
        # Slow is not away: probes say whether it is there.
        if isinstance(error, UpstreamTimeout) and error.sent:
            self._flag(Flag.SLOW_DISK, on=True)
        elif isinstance(error, BadReply | ConnectFailed | StreamBroken | UpstreamTimeout):
            self._unreadable = error.text if isinstance(error, BadReply) else None
            self._bad(error)
        else:
            log.debug("no lists of %s: %s", self.upstream.node.id, error)

    def _take_version(self, version: str | None) -> None:
        inventory = self.upstream.inventory
        if version is not None and version != inventory.version:
            self.upstream.inventory = replace(inventory, version=version)

    # ---------------------------------------------------------------- where is it?

    async def _look_up(self) -> None:
        upstream = self.upstream
        found = await self._around.lookup(upstream.node.host)
        before = upstream.addresses
        # A resolver that fails takes no addresses away.
        if not found or set(found) == set(before):
            return
        upstream.addresses = _first(before[0], found) if before else found
        upstream.changed.fire()
        self._probing.ring()


def _news(upstream: Upstream, probe: Probe) -> bool:
    """Whether its lists may differ from those we have: it is back, is another, or says so."""
    before, after = upstream.sidecar, probe.sidecar
    if upstream.health.oks == 0 or (before is None) != (after is None):
        return True
    if before is None or after is None:
        return probe.version != upstream.inventory.version
    return (before.boot, before.ollama, before.models_version) != (
        after.boot,
        after.ollama,
        after.models_version,
    )


def _first(address: str, addresses: tuple[str, ...]) -> tuple[str, ...]:
    """The same addresses, beginning with the one that answered."""
    if address not in addresses or address == addresses[0]:
        return addresses
    return (address, *(other for other in addresses if other != address))
