"""What all nodes have, as one list; and the heartbeat.

The local part is asked live and not waited for long; the others come from what is
known, so that a dead node costs nothing. It must not know how lists are written
(`dialects/lists.py`).
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from ollama_wrap import __version__
from ollama_wrap.call import Call, Header
from ollama_wrap.dialects import lists
from ollama_wrap.dialects.gojson import quoted
from ollama_wrap.dialects.lists import Entry, Listed
from ollama_wrap.errors import AttemptsFailed, NoUpstream, Unavailable, UpstreamError, WrapError
from ollama_wrap.nodes.fleet import Fleet, Fleets
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.inventory import Inventory
from ollama_wrap.nodes.names import canonical
from ollama_wrap.nodes.node import Node
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy import ask
from ollama_wrap.proxy.responders.base import Responder
from ollama_wrap.reply import Origin, Reply

#: most bytes of the local Ollama's list
_LIST_CAP = 32 * 1024 * 1024
_JSON: Header = (b"Content-Type", b"application/json; charset=utf-8")
_TEXT: Header = (b"Content-Type", b"text/plain; charset=utf-8")
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})

#: raw entries by canonical name
_Rows = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _List:
    """One list: how it is read, what is known of it, how it is written."""

    read: Callable[[bytes], tuple[Entry, ...]]
    known: Callable[[Inventory], _Rows]
    write: Callable[[Iterable[Listed]], bytes]
    header: Header = _JSON


def _models(inventory: Inventory) -> _Rows:
    return {key: one.raw for key, one in inventory.models.items()}


def _loaded(inventory: Inventory) -> _Rows:
    return {key: one.raw for key, one in inventory.loaded.items()}


_LISTS: Mapping[str, _List] = {
    "tags": _List(lists.read_tags, _models, lists.tags),
    "ps": _List(lists.read_ps, _loaded, lists.ps),
    "models": _List(
        lists.read_models, _models, lists.models, (b"Content-Type", b"application/json")
    ),
}


@dataclass(frozen=True, slots=True)
class _Here:
    """What the local Ollama said, its body whole; `failure` where it did not."""

    reply: Reply | None = None
    body: bytes = b""
    failure: Unavailable | None = None

    @property
    def final(self) -> bool:
        """Whether it refused, which nothing that others know changes."""
        return self.reply is not None and self.reply.status != 200 and self.reply.status < 500

    def as_it_came(self) -> Reply:
        """Its own answer. Raises the failure where there is none."""
        if self.reply is None:
            raise self.failure or NoUpstream("the local Ollama does not answer")
        headers = [one for one in self.reply.headers if one[0].lower() not in _FRAMING]
        return replace(self.reply, headers=headers, body=self.body)


@dataclass(frozen=True, slots=True)
class _Made:
    """A list that was made: of which live body, and of what was known of whom."""

    live: bytes | None
    known: tuple[tuple[Node, Inventory], ...]
    body: bytes
    #: the local part was not live
    stale: bool

    def same(self, live: bytes | None, known: tuple[tuple[Node, Inventory], ...]) -> bool:
        """Whether it would come out the same. Inventories are replaced whole, never changed."""
        return (
            len(known) == len(self.known)
            and all(
                one is other and what is then
                for (one, what), (other, then) in zip(known, self.known, strict=True)
            )
            and live == self.live
        )


class Merged:
    """Answers lists, version and `/` in `distributed`.

    `wait`: seconds for the local part. `active`: how many nodes answer.
    """

    def __init__(
        self, fleets: Fleets, local: Responder, wait: float, active: Callable[[Fleet], int]
    ) -> None:
        self._fleets = fleets
        self._local = local
        self._wait = wait
        self._active = active
        #: the last list of each sort: a page that polls thousands of models costs little
        self._made: dict[str, _Made] = {}

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        """See `Responder`."""
        here = await self._ask(call)
        # A 403 or 405 is about the call, whatever others have.
        if here.final:
            return here.as_it_came()
        fleet = self._fleets.current
        if call.operation == "root":
            return self._root(here, fleet)
        if call.operation == "version":
            return self._version(here, fleet)
        return self._list(call.operation, here, fleet)

    async def _ask(self, call: Call) -> _Here:
        # HEAD has to say how long the body would be.
        question = call.altered(method="GET")
        try:
            async with asyncio.timeout(self._wait):
                reply = await self._local.answer(question, None)
                return _Here(reply, await ask.whole(reply, _LIST_CAP))
        except TimeoutError:
            node = self._fleets.current.local.node
            text = f"Ollama at {node.address} does not answer within {self._wait:g} s"
            return _Here(failure=AttemptsFailed(text, [(node.id, "timeout")]))
        except Unavailable as error:
            return _Here(failure=error)
        except UpstreamError as error:
            return _Here(failure=_broken(self._fleets.current, error))

    def _root(self, here: _Here, fleet: Fleet) -> Reply:
        # One that has never answered is no reason to say that something runs.
        up = any(one.state is not NodeState.JOINING for one in fleet.others if _counts(one))
        if here.reply is not None or not up:
            return here.as_it_came()
        return Reply(200, [_TEXT], b"Ollama is running", origin=_origin(here))

    def _version(self, here: _Here, fleet: Fleet) -> Reply:
        version = fleet.local.inventory.version
        if here.reply is not None and here.reply.status == 200:
            body = here.body
        elif version is not None:
            body = f'{{"version":{quoted(version)}}}'.encode()
        else:
            return here.as_it_came()
        # What is no object cannot be given one more key.
        if not body.rstrip().endswith(b"}"):
            return here.as_it_came()
        counts = {"nodes": len(fleet.upstreams), "active": self._active(fleet)}
        ours = json.dumps({"version": __version__, **counts}, separators=(",", ":"))
        return Reply(200, [_JSON], lists.extended(body, "distributed", ours), origin=_origin(here))

    def _list(self, operation: str, here: _Here, fleet: Fleet) -> Reply:
        wanted = _LISTS[operation]
        live = here.body if here.reply is not None and here.reply.status == 200 else None
        known = tuple(
            (one.node, one.inventory) for one in fleet.upstreams if one.node.local or _counts(one)
        )
        made = self._made.get(operation)
        if made is None or not made.same(live, known):
            entries = None if live is None else _read(wanted, live)
            body = _merged(wanted, entries, fleet)
            if body is None:
                return here.as_it_came()
            made = self._made[operation] = _Made(live, known, body, stale=entries is None)
        return Reply(200, [wanted.header], made.body, origin=_origin(here, stale=made.stale))


def _merged(wanted: _List, live: _Rows | None, fleet: Fleet) -> bytes | None:
    """The list of all that is live here and known elsewhere; None: nobody knows anything."""
    # An empty live list is a list; None is none.
    local = wanted.known(fleet.local.inventory) if live is None else live
    others = [(one, _theirs(one, wanted)) for one in fleet.others if _counts(one)]
    if live is None and not local and not any(rows for _, rows in others):
        return None
    rows: dict[str, tuple[bytes, list[str]]] = {
        # The local entry stands for a name that several have.
        key: (raw, [fleet.local.node.id])
        for key, raw in local.items()
    }
    for upstream, theirs in others:
        for key, raw in theirs.items():
            rows.setdefault(key, (raw, []))[1].append(upstream.node.id)
    return wanted.write(rows.values())


def _counts(upstream: Upstream) -> bool:
    """Whether what it has is listed: it is not known to be down, and calls could go to it."""
    return upstream.routable and upstream.state is not NodeState.DOWN


def _theirs(upstream: Upstream, wanted: _List) -> _Rows:
    """What another node has for us: no stubs, nothing that its patterns keep from us."""
    stub = upstream.inventory.stub
    rows = wanted.known(upstream.inventory).items()
    return {key: raw for key, raw in rows if not stub(key) and upstream.accepts(key)}


def _read(wanted: _List, body: bytes) -> _Rows | None:
    """The live list; None where it is none."""
    try:
        entries = wanted.read(body)
    except ValueError:
        return None
    return {canonical(entry.name) or entry.name: entry.raw for entry in entries}


def _origin(here: _Here, *, stale: bool = False) -> Origin:
    attempts = here.failure.attempts if isinstance(here.failure, AttemptsFailed) else ()
    return Origin(
        reason="stale-list" if stale else None,
        fallback=attempts[0][1] if attempts else None,
        attempts=attempts,
    )


def _broken(fleet: Fleet, error: WrapError) -> AttemptsFailed:
    node = fleet.local.node
    return AttemptsFailed(
        f"Ollama at {node.address} broke off its answer: {error.text}", [(node.id, "reset")]
    )
