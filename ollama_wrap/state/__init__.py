"""Where shared facts are kept.

base      Store and Bus: the two contracts
memory    both, in this process
sqlite    a Store in one file
names     every key and channel name
folder    the state folder and its lock

A store is one file here and a line in `STORES` and `BUSES`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from ollama_wrap.clock import Clock, SystemClock
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.base import Bus, Store
from ollama_wrap.state.memory import MemoryBus, MemoryStore
from ollama_wrap.state.sqlite import SqliteStore

STORES: Mapping[str, Callable[[Path, Clock], Store]] = {
    "sqlite": lambda folder, clock: SqliteStore(folder / "state.db", clock),
    "memory": lambda _, clock: MemoryStore(clock),
}
#: `sqlite` and `memory` serve one process alone, and so does their bus
BUSES: Mapping[str, Callable[[], Bus]] = {"sqlite": MemoryBus, "memory": MemoryBus}
#: schemes that the settings know and this version does not
LATER = ("redis", "rediss")


def open_store(setting: str, folder: Path, clock: Clock | None = None) -> Store:
    """The store that OLLAMA_WRAP_STORE names; `folder` is the locked state folder.

    Raises StoreUnavailable with a sentence for the log if there is no such
    store or it cannot be opened. The sidecar then goes on in mode `local`.
    """
    scheme, separator, _ = setting.partition("://")
    if scheme in LATER:
        raise StoreUnavailable("OLLAMA_WRAP_STORE: this version does not keep state in Redis yet")
    if scheme not in STORES or separator:
        raise StoreUnavailable("OLLAMA_WRAP_STORE: must be sqlite, memory or a redis:// address")
    return STORES[scheme](folder, clock or SystemClock())


def open_bus(setting: str) -> Bus:
    """The bus that belongs to the store; in this process where there is no such store."""
    return BUSES.get(setting, MemoryBus)()
