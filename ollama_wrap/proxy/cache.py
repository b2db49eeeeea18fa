"""Answers kept for when no node can answer: what is kept, under which key, how long, how many.

Memory of this process only, and never shared between callers: the key is a hash
with a secret of this process, so that what is kept says nothing of who asked what.
It must not know when a kept answer is given (`responders/cached.py`).
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from typing import cast

from cachetools import Cache as Sized
from cachetools import LRUCache
from msgspec import Struct

from ollama_wrap.call import INFER, LOCAL, Call, Header
from ollama_wrap.clock import Clock
from ollama_wrap.config.groups import Cache as Rules
from ollama_wrap.dialects import Ending
from ollama_wrap.dialects.body import without
from ollama_wrap.dialects.shapes import folded, unfolded
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.names import canonical, is_cloud
from ollama_wrap.observe.pressure import Strain
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.reply import Reply

#: what does not change the answer, only its shape
_SHAPE = frozenset({"stream", "stream_options"})
#: whose answers are given in both shapes
_BOTH = frozenset({"generate", "chat"})
_STREAM = re.compile(rb', ?"stream" ?: ?(true|false)|"stream" ?: ?(true|false) ?, ?')
#: as libraries write it
_USUAL = {
    True: (b',"stream":true', b', "stream": true'),
    False: (b',"stream":false', b', "stream": false'),
}
_KEPT = frozenset({b"content-type", b"cache-control"})
_LINES: Header = (b"Content-Type", b"application/x-ndjson")
_OBJECT: Header = (b"Content-Type", b"application/json; charset=utf-8")
#: A load is a deed: given again, it would say that a model is in memory.
_LOADED = b'"done_reason":"load"'
#: bytes that an entry takes beside its body: objects, headers, key
_AROUND = 1024
#: bytes of a request whose answer is kept: a hash of a longer one would hold others up
_LONGEST = 1024 * 1024
#: answers that are put away at a time, and bytes of a request that does not wait for it
_TOGETHER, _LONG = 32, 64 * 1024
#: hashes that are kept of calls that ask alike
_ALIKE = 256
#: looks for entries that are too old, within the age that they may reach
_SWEEPS = 8


class Entry(Struct, frozen=True):
    """One answer: its headers without framing, whole body, and the monotonic time it came at."""

    headers: tuple[Header, ...]
    body: bytes
    at: float

    @property
    def lines(self) -> bool:
        """Whether it is a stream of lines."""
        return any(value.startswith(_LINES[1]) for _, value in self.headers)

    @property
    def streamed(self) -> bool:
        """Whether it was sent piece by piece."""
        return self.lines or any(value.startswith(b"text/event") for _, value in self.headers)


class Cache:
    """The kept answers. `running` counts the open calls: what they may collect is counted in.

    `holds` is told the number of entries and their bytes when they change. While
    `strain` says that memory is short nothing is kept, and nothing is given.
    """

    def __init__(
        self,
        rules: Rules,
        fleets: Fleets,
        clock: Clock,
        running: Callable[[], int],
        holds: Callable[[int, int], None],
        strain: Strain | None = None,
    ) -> None:
        self._strain = strain or Strain()
        self._fleets = fleets
        self._clock = clock
        self._running = running
        self._holds = holds
        self._secret = secrets.token_bytes(32)
        self._begun: dict[tuple[str, str, str | None, str | None, str], hashlib.blake2b] = {}
        #: calls, the nodes that answered, and the answers, not put away yet
        self._fresh: list[tuple[Call, str | None, Entry]] = []
        self.obey(rules)

    def obey(self, rules: Rules) -> None:
        """Keep by these rules from now on; what was kept by others goes."""
        self._rules = rules
        # One with a time of its own looks for what has expired at every step.
        self._entries: LRUCache[bytes, Entry] = LRUCache(rules.max_bytes, getsizeof=_size)
        self._swept = self._clock.monotonic()

    def keep(self, call: Call) -> int:
        """Bytes of an answer to `call` that would be kept; 0: it is not."""
        rules = self._rules
        if self._strain.spare:
            self._drop()
            return 0
        if not (rules.enabled and _may_be_kept(call)):
            return 0
        entry = rules.max_entry
        return entry if (self._running() + 1) * entry <= rules.max_bytes else 0

    def store(self, call: Call, reply: Reply, tap: Tap, ending: Ending) -> None:
        """An answer has ended with its terminal marker; it is kept if all of it was collected."""
        body = tap.whole() if tap.keep else None
        if body is None or reply.status != 200 or reply.origin.age is not None:
            return
        headers = _kept(reply)
        if headers is None or _LOADED in body[-256:] or not ending.done or ending.failed:
            return
        entry = Entry(headers, body, self._clock.monotonic())
        self._fresh.append((call, reply.origin.node, entry))
        if len(self._fresh) >= _TOGETHER or len(call.body or b"") > _LONG:
            self.settle()

    def settle(self) -> None:
        """Put away the answers that came lately: together that costs less."""
        fresh, self._fresh = self._fresh, []
        entries = self._entries
        self._sweep()
        space, known = self._room(), dict[tuple[str | None, str | None], tuple[bool, str | None]]()
        for call, node, entry in fresh:
            room, asked = space - _size(entry), (call.model, node)
            if asked not in known:
                known[asked] = self._of_nodes(call), self._digest(call, node)
            kept, digest = known[asked]
            if room < 0 or not kept:
                continue
            while entries.currsize > room:
                entries.popitem()
            key = self._key(call, digest)
            if key in entries:
                del entries[key]  # so that they stand in the order of their ages
            entries[key] = entry
        if fresh:
            self._holds(len(entries), int(entries.currsize))

    def _sweep(self) -> None:
        """Let go of what is too old, some times within the age that it may reach."""
        now = self._clock.monotonic()
        if now - self._swept < self._rules.ttl / _SWEEPS:
            return
        self._swept, oldest = now, now - self._rules.ttl
        entries = self._entries
        # Read past its order: who is looked at here was not asked for.
        old = takewhile(lambda key: Sized.__getitem__(entries, key).at < oldest, entries)
        for key in tuple(old):
            del entries[key]
        self._holds(len(entries), int(entries.currsize))

    def find(self, call: Call) -> Entry | None:
        """The answer to `call` in the shape that it asks for, if one was kept."""
        if not self._rules.enabled or self._strain.spare or not self._answers(call):
            return None
        self.settle()
        oldest = self._clock.monotonic() - self._rules.ttl
        for digest in self._digests(call):
            entry = self._entries.get(self._key(call, digest))
            if entry is not None and entry.at >= oldest:
                return _shaped(call, entry)
        return None

    def _drop(self) -> None:
        if self._fresh or self._entries:
            self._fresh.clear()
            self._entries.clear()
            self._holds(0, 0)

    def _answers(self, call: Call) -> bool:
        """Whether answers to calls like this one are kept at all."""
        return _may_be_kept(call) and self._of_nodes(call)

    def _of_nodes(self, call: Call) -> bool:
        """Whether its model is one that runs on a node."""
        key = canonical(call.model or "")
        stub = key is not None and self._fleets.current.local.inventory.stub(key)
        return key is not None and not stub and not is_cloud(call.model or "")

    def _room(self) -> int:
        """Bytes for kept answers, beside what the running calls may collect."""
        return self._rules.max_bytes - self._running() * self._rules.max_entry

    def _digest(self, call: Call, node: str | None) -> str | None:
        """The digest of the model at the node that answered."""
        upstream = self._fleets.current.find(node) if node is not None else None
        key = canonical(call.model or "")
        return None if upstream is None or key is None else upstream.inventory.digest(key)

    def _digests(self, call: Call) -> Iterable[str | None]:
        """The digests that are known of the model, the local one first; None where none is."""
        key = canonical(call.model or "") or ""
        known = [one.inventory.digest(key) for one in self._fleets.current.upstreams]
        return dict.fromkeys(one for one in known if one is not None) or (None,)

    def _key(self, call: Call, digest: str | None) -> bytes:
        # Where only one shape is given, the other is another answer.
        shape = "both" if call.operation in _BOTH else str(call.stream)
        asked = (call.caller, call.operation, call.model, digest, shape)
        begun = self._begun.get(asked)
        if begun is None:
            begun = self._begin(asked)
        hashed = begun.copy()
        body = call.body if isinstance(call.body, bytes) else b""  # a longer one is not kept
        plain = _plain(body, stream=call.stream)
        if plain is None:
            members = without(body, _SHAPE)
            plain = b"whole %d " % call.stream + body if members is None else _written(members)
        hashed.update(plain)
        return hashed.digest()

    def _begin(self, asked: tuple[str, str, str | None, str | None, str]) -> "hashlib.blake2b":
        """A hash that has seen all but the body; calls that ask alike go on from there."""
        caller, operation, model, digest, shape = asked
        words = f"{caller}\0{operation}\0{canonical(model or '')}\0{digest}\0{shape}\0"
        begun = hashlib.blake2b(words.encode(), key=self._secret, digest_size=32)
        if len(self._begun) >= _ALIKE:
            self._begun.clear()
        self._begun[asked] = begun
        return begun


def _may_be_kept(call: Call) -> bool:
    """What can be told without a look at the name of its model."""
    if call.mode is LOCAL or call.kind is not INFER or call.hop or call.no_store:
        return False
    return call.model is not None and call.body is not None and len(call.body) <= _LONGEST


def _kept(reply: Reply) -> tuple[Header, ...] | None:
    """The fields that are kept of a reply; None: its body is encoded."""
    notes = reply.alike.notes if reply.alike is not None else {}
    if "kept" not in notes:
        fields = [field for field in reply.headers if field[0].lower() in _KEPT]
        encoded = any(field[0].lower() == b"content-encoding" for field in reply.headers)
        notes["kept"] = None if encoded else tuple(fields)
    return cast("tuple[Header, ...] | None", notes["kept"])


def _written(members: Sequence[bytes | memoryview]) -> bytes:
    """An object of these keys and values, without white space between them."""
    pairs = [b":".join(pair) for pair in zip(members[::2], members[1::2], strict=True)]
    return b"{%b}" % b",".join(pairs)


def _plain(body: bytes, *, stream: bool) -> bytes | None:
    """The body without its `stream`, where that is written in the usual way; else None.

    The word must stand in it once at most, and as what our reading took for the value.
    """
    times = body.count(b"tream")
    if times == 0:
        return body
    if times > 1:
        return None
    for usual in _USUAL[stream]:
        place = body.find(usual)
        if place >= 0:
            return body[:place] + body[place + len(usual) :]
    found = _STREAM.search(body)
    if found is None or (found[1] or found[2]) != (b"true" if stream else b"false"):
        return None
    return body[: found.start()] + body[found.end() :]


def _size(entry: Entry) -> int:
    return len(entry.body) + _AROUND


def _shaped(call: Call, entry: Entry) -> Entry | None:
    if call.operation not in _BOTH or entry.lines == call.stream:
        return entry
    turn, header = (unfolded, _LINES) if call.stream else (folded, _OBJECT)
    body = turn(call.operation, entry.body)
    return None if body is None else Entry((header,), body, entry.at)
