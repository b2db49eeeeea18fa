"""Inventory: which models are on a node, which are loaded there, and when that was last known.

Owns what lists of a node become. It must not know how they are asked for, nor
other nodes. Keys are canonical model names (`names.canonical`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

#: how long a model that was seen on a node is looked for there, in seconds
SEEN_FOR = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of `/api/tags`: `name` as the node spells it, `size` in bytes.

    `remote`: a stub whose weights are elsewhere (`remote_host`, or a cloud name).
    `raw` is the entry as the node wrote it.
    """

    name: str
    key: str
    digest: str
    size: int = 0
    remote: bool = False
    raw: bytes = b""


@dataclass(frozen=True, slots=True)
class Loaded:
    """One entry of `/api/ps`; `expires` as the node wrote it, `size_vram` in bytes."""

    key: str
    digest: str
    raw: bytes = b""
    expires: str = ""
    size_vram: int | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a node said it has; `seen` is the wall time at which a model was last listed there.

    `known` is False until the node has listed its models once since we started;
    `seen` may then be left from an earlier run.
    """

    models: Mapping[str, Model] = field(default_factory=dict)
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)
    version: str | None = None
    known: bool = False
    _hot: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        hot = frozenset(one.digest for one in self.loaded.values() if one.digest)
        object.__setattr__(self, "_hot", hot)

    def holds(self, key: str) -> bool:
        """Whether the model itself is there; a stub is not it."""
        model = self.models.get(key)
        return model is not None and not model.remote

    def had(self, key: str) -> bool:
        """Whether it is there, or was in an earlier run and the node has not been asked since."""
        return self.holds(key) or (not self.known and key in self.seen)

    def stub(self, key: str) -> bool:
        """Whether the name is there and its weights are elsewhere."""
        model = self.models.get(key)
        return model is not None and model.remote

    def digest(self, key: str) -> str | None:
        """The manifest's digest; None where it is not known."""
        model = self.models.get(key)
        return model.digest or None if model is not None else None

    def has_loaded(self, key: str) -> bool:
        """Whether it is in memory there, under this or another name."""
        if key in self.loaded:
            return True
        model = self.models.get(key)
        return model is not None and model.digest in self._hot

    def listed(self, models: Iterable[Model], wall: float) -> "Inventory":
        """The node listed its models at `wall`; what it did not list is not there any more."""
        by_key = {model.key: model for model in models}
        seen = {key: wall for key, model in by_key.items() if not model.remote}
        return replace(self, models=by_key, seen=seen, known=True)

    def running(self, loaded: Iterable[Loaded]) -> "Inventory":
        """The node listed what it has in memory."""
        return replace(self, loaded={one.key: one for one in loaded})

    def unloaded(self, key: str) -> "Inventory":
        """The node let the model go from memory, under whichever name it was there."""
        digest = self.loaded[key].digest if key in self.loaded else self.digest(key)
        loaded = {
            name: one
            for name, one in self.loaded.items()
            if name != key and (not digest or one.digest != digest)
        }
        return replace(self, loaded=loaded)

    def without(self, key: str) -> "Inventory":
        """The node said that it does not have this model."""
        return replace(
            self,
            models={name: model for name, model in self.models.items() if name != key},
            loaded={name: one for name, one in self.loaded.items() if name != key},
            seen={name: wall for name, wall in self.seen.items() if name != key},
        )

    def aged(self, wall: float, limit: float = SEEN_FOR) -> "Inventory":
        """Without what was last seen more than `limit` seconds before `wall`."""
        if all(wall - seen <= limit for seen in self.seen.values()):
            return self
        fresh = {key: seen for key, seen in self.seen.items() if wall - seen <= limit}
        return replace(
            self,
            models={key: one for key, one in self.models.items() if one.remote or key in fresh},
            loaded={key: one for key, one in self.loaded.items() if key in fresh},
            seen=fresh,
        )
