"""What a sidecar says of itself: the question, and how the answer is read.

An answer that is no ping means that the node is a plain one; a ping that cannot
be read, though it speaks our protocol, is an error. Must not know what follows.
"""

from typing import Annotated

import msgspec

from ollama_wrap.backends.base import Probe
from ollama_wrap.backends.client import Answer, Question
from ollama_wrap.errors import BadReply, UpstreamError
from ollama_wrap.nodes.names import canonical
from ollama_wrap.nodes.sidecar import Sidecar

PATH = "/api/distributed/ping"
#: most bytes of a ping
CAP = 4096

_Id = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z")]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Head(msgspec.Struct):
    """What every version of the protocol says."""

    id: _Id
    boot: str
    proto: tuple[int, int]


class _Ping(_Head):
    ollama: bool
    in_flight: _Count
    queued: _Count
    loaded: tuple[str, ...]
    drain: bool
    models_version: str
    slots: _Count | None = None
    time: float | None = None
    saturated: bool = False


def question(seconds: float) -> Question:
    return Question(PATH, CAP, seconds)


def read(answer: Answer) -> Probe | None:
    """The ping, or None where the node is no sidecar.

    Of a sidecar that speaks no version of ours, only id, boot and proto are read.
    """
    # Something before it is broken, which says nothing about what it is.
    if answer.status >= 500:
        raise UpstreamError(f"{PATH} answered {answer.status}")
    try:
        head = msgspec.json.decode(answer.body, type=_Head) if answer.status == 200 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        head = None
    if head is None:
        return None
    stranger = Sidecar(head.id, head.boot, head.proto, ollama=False)
    if not stranger.compatible:
        return Probe(answer.address, sidecar=stranger)
    try:
        ping = msgspec.json.decode(answer.body, type=_Ping)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadReply(f"its ping cannot be read: {error}") from error
    return Probe(answer.address, sidecar=_sidecar(ping), wall=ping.time)


def _sidecar(ping: _Ping) -> Sidecar:
    return Sidecar(
        id=ping.id,
        boot=ping.boot,
        proto=ping.proto,
        ollama=ping.ollama,
        in_flight=ping.in_flight,
        queued=ping.queued,
        slots=ping.slots,
        loaded=tuple(filter(None, map(canonical, ping.loaded))),
        drain=ping.drain,
        models_version=ping.models_version,
        saturated=ping.saturated,
    )
