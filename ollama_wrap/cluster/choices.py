"""An operator's choices at run time, mode and fallback: stored, then in force, then announced.

Each choice remembers the setting that it overrode and is dropped when that
setting has changed since: what was said last holds. The choices are this
sidecar's own, so they belong in a store that no other host writes. Must not
know which mode holds in the end; `nodes/mode.py` decides that.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from ollama_wrap import tasks
from ollama_wrap.call import Mode
from ollama_wrap.cluster.events import ChoiceMade, Events
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.base import Store
from ollama_wrap.state.names import FALLBACK_CHOICE, MODE_CHOICE

log = logging.getLogger(__name__)


MODE, FALLBACK = "mode", "fallback"
KEYS = {MODE: MODE_CHOICE, FALLBACK: FALLBACK_CHOICE}
VALUES: Mapping[str, Collection[str]] = {MODE: tuple(Mode), FALLBACK: ("true", "false")}


@dataclass(frozen=True, slots=True)
class Overridable:
    """What the settings say, where an operator may choose otherwise."""

    distributed: bool | None
    standalone: bool
    fallback: bool

    def text(self, name: str) -> str:
        """The settings that a choice overrides, to compare them with those of another run."""
        if name == MODE:
            return f"distributed={self.distributed} standalone={self.standalone}"
        return f"fallback={self.fallback}"


class _Stored(msgspec.Struct, frozen=True):
    value: str
    over: str


class Choices:
    """What was chosen; readers ask anew each time, since a choice may come at any time."""

    def __init__(
        self, store: Store, settings: Overridable, events: Events, enforce: Callable[[], None]
    ) -> None:
        """`enforce` is called after each change: it puts the mode that follows in force."""
        self._store = store
        self._settings = settings
        self._events = events
        self._enforce = enforce
        self._chosen: dict[str, str] = {}
        # Two choices at once: the one that is stored last is the one in force.
        self._turn = asyncio.Lock()

    @property
    def mode(self) -> Mode | None:
        """The chosen mode; None: the settings hold."""
        chosen = self._chosen.get(MODE)
        return None if chosen is None else Mode(chosen)

    @property
    def fallback(self) -> bool:
        """Whether another candidate may answer: the choice, else the setting."""
        chosen = self._chosen.get(FALLBACK)
        return self._settings.fallback if chosen is None else chosen == "true"

    async def load(self) -> None:
        """Take up what an earlier run stored; for the start, before anything is in force.

        Raises StoreUnavailable. Then it is not known whether other nodes may be
        used at all, and mode `local` is the one that does no harm.
        """
        for name in KEYS:
            if (value := await self._load(name)) is not None:
                self._chosen[name] = value

    def obey(self, settings: Overridable) -> None:
        """Stand above other settings; a choice over one that has changed holds no more."""
        before, self._settings = self._settings, settings
        for name in KEYS:
            if name in self._chosen and before.text(name) != settings.text(name):
                del self._chosen[name]
                log.info("the choice of %s is dropped: its setting has changed", name)
                tasks.start(self._forget(name), f"forget the choice of {name}")

    async def choose_mode(self, mode: Mode) -> None:
        """`mode` from now on and after a restart.

        Raises StoreUnavailable if that cannot be stored; then nothing changes.
        """
        await self._choose(MODE, mode.value)

    async def choose_fallback(self, *, enabled: bool) -> None:
        """The same for fallback."""
        await self._choose(FALLBACK, "true" if enabled else "false")

    async def _choose(self, name: str, value: str) -> None:
        # A caller who leaves must not part what is stored from what is in force.
        await asyncio.shield(tasks.start(self._change(name, value), f"choice of {name}"))

    async def _change(self, name: str, value: str) -> None:
        async with self._turn:
            stored = _Stored(value, self._settings.text(name))
            await self._store.set(KEYS[name], msgspec.json.encode(stored))
            previous = self._chosen.get(name)
            self._chosen[name] = value
            self._enforce()
            self._events.tell(ChoiceMade(name, value, previous))

    async def _forget(self, name: str) -> None:
        async with self._turn:
            # Somebody may have chosen again meanwhile.
            if name not in self._chosen:
                with suppress(StoreUnavailable):
                    await self._store.delete(KEYS[name])

    async def _load(self, name: str) -> str | None:
        content = await self._store.get(KEYS[name])
        if content is None:
            return None
        stored = _read(content)
        if stored is None or stored.value not in VALUES[name]:
            log.warning("the stored choice of %s cannot be read: dropped", name)
        elif stored.over != self._settings.text(name):
            log.info("the choice of %s is dropped: its setting has changed since", name)
        else:
            return stored.value
        await self._store.delete(KEYS[name])
        return None


def _read(content: bytes) -> _Stored | None:
    try:
        return msgspec.json.decode(content, type=_Stored)
    except msgspec.DecodeError:
        return None
