"""Stock Ollama, asked in its own words; and, by `ping`, the sidecars in front of one.

Owns which questions those are. A list that cannot be read is an error and never
an empty list. Must not know when to ask.
"""

from collections.abc import Callable

import msgspec

from ollama_wrap.backends import sidecar
from ollama_wrap.backends.base import Probe
from ollama_wrap.backends.client import Answer, Client, Question
from ollama_wrap.dialects.lists import Entry, read_ps, read_tags
from ollama_wrap.errors import BadReply, UpstreamError
from ollama_wrap.nodes.inventory import Loaded, Model
from ollama_wrap.nodes.names import canonical, is_cloud

#: most bytes of a list, and of a version
LIST_CAP = 32 * 1024 * 1024
VERSION_CAP = 4096


class _Version(msgspec.Struct):
    version: str


class Ollama:
    """A node with `kind=ollama`."""

    able = True

    def __init__(self, client: Client) -> None:
        self._client = client

    async def probe(self, seconds: float, *, ping: bool) -> Probe:
        """A sidecar's ping where there is one, else the version: neither touches disk or GPU."""
        if ping:
            found = sidecar.read(await self._client.ask(sidecar.question(seconds)))
            # Stock answers a ping with its 404: then it is a plain node.
            if found is not None:
                return found
        answer = await self._ask("/api/version", VERSION_CAP, seconds)
        return Probe(answer.address, version=_version(answer))

    async def models(self, seconds: float) -> tuple[Model, ...]:
        answer = await self._ask("/api/tags", LIST_CAP, seconds)
        return tuple(
            Model(entry.name, key, entry.digest, entry.size, _elsewhere(entry), entry.raw)
            for key, entry in _read(read_tags, answer)
        )

    async def loaded(self, seconds: float) -> tuple[Loaded, ...]:
        answer = await self._ask("/api/ps", LIST_CAP, seconds)
        return tuple(
            Loaded(key, entry.digest, entry.raw, entry.expires, entry.size_vram)
            for key, entry in _read(read_ps, answer)
        )

    async def version(self, seconds: float) -> str:
        return _version(await self._ask("/api/version", VERSION_CAP, seconds))

    async def close(self) -> None:
        await self._client.close()

    async def _ask(self, path: str, cap: int, seconds: float) -> Answer:
        answer = await self._client.ask(Question(path, cap, seconds))
        if answer.status != 200:
            raise UpstreamError(f"{path} answered {answer.status}")
        return answer


def _read(reader: Callable[[bytes], tuple[Entry, ...]], answer: Answer) -> list[tuple[str, Entry]]:
    """Each entry and its key; a name that stock would refuse to take cannot be asked for."""
    try:
        entries = reader(answer.body)
    except ValueError as error:
        raise BadReply(str(error)) from error
    return [(key, entry) for entry in entries if (key := canonical(entry.name)) is not None]


def _elsewhere(entry: Entry) -> bool:
    return entry.remote or is_cloud(entry.name)


def _version(answer: Answer) -> str:
    try:
        return msgspec.json.decode(answer.body, type=_Version).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadReply(f"not a version: {error}") from error
