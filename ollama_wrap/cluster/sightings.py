"""Which models were seen on which node, and when it last answered: kept over restarts.

A model that was seen on a node within a day is not missing because that node is
away. Owns the stored form and how often it is written; must not know how nodes
are asked.
"""

import logging
from collections.abc import Mapping

import msgspec

from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.base import Store
from ollama_wrap.state.names import SEEN, seen

log = logging.getLogger(__name__)

#: seconds by which times may lag behind in the store: a write waits for the disk
LAG = 60.0


class Sighting(msgspec.Struct, frozen=True):
    """Of one node: wall time by model key, and of its last answer."""

    models: dict[str, float]
    answered: float | None = None


class Sightings:
    """What is stored, and what is new."""

    def __init__(self, store: Store, keep: float) -> None:
        """`keep`: seconds for which a sighting is worth something."""
        self.keep = keep
        self._store = store
        self._last: dict[str, Sighting] = {}
        self._unwritten: set[str] = set()
        self._failing = False

    async def load(self, wall: float) -> None:
        """Read what earlier runs saw; nothing where the store does not answer."""
        try:
            stored = await self._store.scan(SEEN)
        except StoreUnavailable as error:
            log.warning("where models were seen before is not known: %s", error)
            return
        for node, sighting in filter(None, (_read(value) for _, value in stored)):
            fresh = {key: at for key, at in sighting.models.items() if wall - at <= self.keep}
            self._last[node] = Sighting(fresh, sighting.answered)

    def of(self, node: str) -> Sighting | None:
        """What is remembered of a node."""
        return self._last.get(node)

    def saw(self, node: str, models: Mapping[str, float], answered: float | None) -> None:
        """Remember; worth a write if a model came or went, or the times have moved on."""
        last = self._last.get(node)
        if last is None or models.keys() != last.models.keys() or _lag(last, answered) >= LAG:
            self._remember(node, Sighting(dict(models), answered))

    def lost(self, node: str, models: Mapping[str, float], answered: float | None) -> None:
        """The node is away: from now on its last answer is worth knowing to the second."""
        last = self._last.get(node)
        if last is None or last.answered != answered:
            self._remember(node, Sighting(dict(models), answered))

    async def save(self) -> None:
        """Write what is new; what cannot be written is tried again the next time."""
        for node in sorted(self._unwritten):
            self._unwritten.discard(node)
            value = msgspec.json.encode((node, self._last[node]))
            try:
                await self._store.set(seen(node), value, ttl=self.keep)
            except StoreUnavailable as error:
                self._unwritten.add(node)
                # A disk that is full is said once, not every five seconds.
                if not self._failing:
                    log.warning("where models were seen is not stored: %s", error)
                self._failing = True
                return
        self._failing = False

    def _remember(self, node: str, sighting: Sighting) -> None:
        self._last[node] = sighting
        self._unwritten.add(node)


def _lag(last: Sighting, answered: float | None) -> float:
    return (answered or 0.0) - (last.answered or 0.0)


def _read(value: bytes) -> tuple[str, Sighting] | None:
    try:
        return msgspec.json.decode(value, type=tuple[str, Sighting])
    except msgspec.DecodeError:
        return None
