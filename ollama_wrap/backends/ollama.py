"""Stock Ollama, asked in its own words; and, by `ping`, the sidecars in front of one.

Owns how its version and lists are read. A list that cannot be read is an error
and never an empty list. Must not know when to ask.
"""

from typing import TypeVar

import msgspec

from ollama_wrap.backends import sidecar
from ollama_wrap.backends.base import Probe
from ollama_wrap.backends.client import Answer, Client, Question
from ollama_wrap.errors import BadReply, UpstreamError
from ollama_wrap.nodes.inventory import Loaded, Model
from ollama_wrap.nodes.names import canonical, is_cloud

#: most bytes of a list, and of a version
LIST_CAP = 32 * 1024 * 1024
VERSION_CAP = 4096

T = TypeVar("T")


class _Version(msgspec.Struct):
    version: str


class _List(msgspec.Struct):
    models: list[msgspec.Raw] | None


class _Entry(msgspec.Struct):
    """What lists say of a model, as far as it is used; `server/routes.go` writes all of it."""

    name: str = ""
    model: str = ""
    digest: str = ""
    size: int = 0
    remote_host: str = ""
    expires_at: str = ""
    size_vram: int | None = None


class Ollama:
    """A node with `kind=ollama`."""

    able = True

    def __init__(self, client: Client) -> None:
        self._client = client

    async def probe(self, seconds: float, *, ping: bool) -> Probe:
        """A sidecar's ping where there is one, else the version: neither touches disk or GPU."""
        if ping:
            found = sidecar.read(await self._client.ask(sidecar.question(seconds)))
            if found is not None:
                return found
        answer = await self._ask("/api/version", VERSION_CAP, seconds)
        return Probe(answer.address, version=_decoded(answer, _Version).version)

    async def models(self, seconds: float) -> tuple[Model, ...]:
        entries = _entries(await self._ask("/api/tags", LIST_CAP, seconds))
        return tuple(
            Model(
                name=name,
                key=key,
                digest=entry.digest,
                size=entry.size,
                remote=bool(entry.remote_host) or is_cloud(name),
                raw=raw,
            )
            for key, name, entry, raw in entries
        )

    async def loaded(self, seconds: float) -> tuple[Loaded, ...]:
        entries = _entries(await self._ask("/api/ps", LIST_CAP, seconds))
        return tuple(
            Loaded(
                key=key,
                digest=entry.digest,
                raw=raw,
                expires=entry.expires_at,
                size_vram=entry.size_vram,
            )
            for key, _, entry, raw in entries
        )

    async def version(self, seconds: float) -> str:
        return _decoded(await self._ask("/api/version", VERSION_CAP, seconds), _Version).version

    async def close(self) -> None:
        await self._client.close()

    async def _ask(self, path: str, cap: int, seconds: float) -> Answer:
        answer = await self._client.ask(Question(path, cap, seconds))
        if answer.status != 200:
            raise UpstreamError(f"{path} answered {answer.status}")
        return answer


def _entries(answer: Answer) -> list[tuple[str, str, _Entry, bytes]]:
    """Key, name, fields and own bytes of each entry; names that stock would refuse are left out."""
    found = []
    for raw in _decoded(answer, _List).models or ():
        entry = _read(bytes(raw), _Entry)
        name = entry.name or entry.model
        if not name:
            raise BadReply("a list names no model in one of its entries")
        key = canonical(name)
        if key is not None:
            found.append((key, name, entry, bytes(raw)))
    return found


def _decoded(answer: Answer, shape: type[T]) -> T:
    return _read(answer.body, shape)


def _read(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadReply(f"the answer cannot be read: {error}") from error
