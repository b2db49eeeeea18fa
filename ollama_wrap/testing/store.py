"""The models and blobs that a fake node has.

Owns: models by name, their digests, the blobs that were uploaded.
Must not know: HTTP, or what is loaded.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from string import hexdigits

from ollama_wrap.testing.names import BadNameError, Name, parse

_TEMPLATE = "{{ .Prompt }}"
_DIGEST_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Model:
    """One model as the lists show it. `digest` and `weights` are 64 hex digits."""

    name: str
    digest: str
    weights: str
    modified: datetime
    size: int = 240_001
    family: str = "llama"
    parameter_size: str = "115K"
    quantization: str = "F16"
    context_length: int = 2048
    embedding_length: int = 64
    capabilities: tuple[str, ...] = ("completion",)
    template: str = _TEMPLATE
    system: str = ""
    remote_host: str = ""
    remote_model: str = ""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to start with. `digest`: 64 hex digits, or any text to derive them from."""

    name: str
    digest: str = ""
    size: int = 240_001
    capabilities: tuple[str, ...] = ("completion",)
    remote_host: str = ""
    remote_model: str = ""


class Store:
    """Models by name, compared as stock compares them, and blobs by digest."""

    def __init__(self, specs: Iterable[ModelSpec | str] = ()) -> None:
        """Hold the given models, the first one modified last."""
        self._models: dict[str, Model] = {}
        self.blobs: dict[str, int] = {}
        now = datetime.now(UTC)
        # Lists show the newest first, so the first that is given is the newest.
        for age, spec in enumerate(specs):
            self.add(made(spec, now - timedelta(seconds=40 + age)))

    def add(self, model: Model) -> None:
        """Put a model under its name, in place of the one that was there."""
        self._models[parse(model.name).key] = model
        self.blobs.setdefault(f"sha256:{model.weights}", model.size)

    def find(self, name: Name) -> Model | None:
        """Return the model of that name in any case; a name ending in :local finds no stub."""
        model = self._models.get(name.key)
        if model is not None and name.source == "local" and model.remote_host:
            return None
        return model

    def exact(self, name: Name) -> Model | None:
        """Return the model if it is stored in exactly this spelling."""
        model = self.find(name)
        return model if model is not None and parse(model.name).short == name.short else None

    def copy(self, model: Model, to: Name) -> None:
        """Store a model under a second name; it keeps its digest."""
        self.add(replace(model, name=to.short, modified=datetime.now(UTC)))

    def remove(self, name: Name) -> None:
        """Forget a model that is there."""
        del self._models[name.key]

    def listed(self) -> list[Model]:
        """Return all models, the last modified first."""
        return sorted(self._models.values(), key=lambda m: m.modified, reverse=True)


def made(spec: ModelSpec | str, modified: datetime) -> Model:
    """Return the model that a spec or a ``name[=digest]`` describes. Raises BadNameError."""
    if isinstance(spec, str):
        name, _, digest = spec.partition("=")
        spec = ModelSpec(name, digest)
    name = _stored(spec.name)
    seed = spec.digest or name
    # Equal text is an equal digest, on every node of a test.
    given = len(seed) == _DIGEST_LENGTH and set(seed) <= set(hexdigits)
    return Model(
        name=name,
        digest=seed.lower() if given else hexed(f"manifest {seed}"),
        weights=hexed(f"weights {seed}"),
        modified=modified,
        size=spec.size,
        capabilities=spec.capabilities,
        remote_host=spec.remote_host,
        remote_model=spec.remote_model,
    )


def hexed(text: str) -> str:
    """Return the SHA-256 of a text as 64 hex digits."""
    return sha256(text.encode()).hexdigest()


def _stored(text: str) -> str:
    try:
        name = parse(text)
    except BadNameError:
        name = parse(text.replace("@", "_"))
    # A stub of a cloud model is stored under the spelling that names the cloud in its tag.
    if name.source == "cloud":
        tag = "cloud" if name.tag == "latest" else f"{name.tag}-cloud"
        name = replace(name, tag=tag, source="")
    return name.short
