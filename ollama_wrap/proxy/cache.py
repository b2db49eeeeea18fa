"""Answers kept for when no node can answer: what is kept, under which key, how long, how many.

Memory of this process only, and never shared between callers: the key is a hash
with a secret of this process, so that what is kept says nothing of who asked what.
It must not know when a kept answer is given (`responders/cached.py`).
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cachetools import TTLCache

from ollama_wrap.call import Call, Header, Kind, Mode
from ollama_wrap.clock import Clock
from ollama_wrap.config.groups import Cache as Rules
from ollama_wrap.dialects import Ending
from ollama_wrap.dialects.body import without
from ollama_wrap.dialects.shapes import folded, unfolded
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.nodes.names import canonical, is_cloud
from ollama_wrap.proxy.running import Open
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.reply import Reply

#: what does not change the answer, only its shape
_SHAPE = frozenset({"stream", "stream_options"})
#: whose answers are given in both shapes
_BOTH = frozenset({"generate", "chat"})
_KEPT = frozenset({b"content-type", b"cache-control"})
_LINES: Header = (b"Content-Type", b"application/x-ndjson")
_OBJECT: Header = (b"Content-Type", b"application/json; charset=utf-8")
#: A load is a deed: given again, it would say that a model is in memory.
_LOADED = b'"done_reason":"load"'
#: bytes that an entry takes beside its body: objects, headers, key
_AROUND = 1024


@dataclass(frozen=True, slots=True)
class Entry:
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
    """The kept answers. `running` are the open calls: what they collect is counted in.

    `holds` is told the number of entries and their bytes when they change.
    """

    def __init__(
        self,
        rules: Rules,
        fleets: Fleets,
        clock: Clock,
        running: Callable[[], tuple[Open, ...]],
        holds: Callable[[int, int], None],
    ) -> None:
        self._rules = rules
        self._fleets = fleets
        self._clock = clock
        self._running = running
        self._holds = holds
        self._secret = secrets.token_bytes(32)
        self._entries: TTLCache[bytes, Entry] = TTLCache(
            rules.max_bytes, rules.ttl, timer=clock.monotonic, getsizeof=_size
        )

    def keep(self, call: Call) -> int:
        """Bytes of an answer to `call` that would be kept; 0: it is not."""
        rules = self._rules
        if not rules.enabled or not self._answers(call):
            return 0
        if len(self._running()) * rules.max_entry > rules.max_bytes:
            return 0
        return rules.max_entry

    def store(self, call: Call, reply: Reply, tap: Tap, ending: Ending) -> None:
        """An answer has ended with its terminal marker; it is kept if all of it was collected."""
        body = tap.whole() if tap.keep else None
        if body is None or reply.status != 200 or reply.origin.age is not None:
            return
        if _LOADED in body[-256:] or not ending.done or ending.failed:
            return
        if any(name.lower() == b"content-encoding" for name, _ in reply.headers):
            return
        headers = tuple(one for one in reply.headers if one[0].lower() in _KEPT)
        entry = Entry(headers, body, self._clock.monotonic())
        entries = self._entries
        room = self._rules.max_bytes - _size(entry) - self._collected()
        if room < 0:
            return
        with entries.timer:  # time stands still, so that none expires in between
            size = entries.currsize
            while size > room:
                entries.popitem()
                size = entries.currsize
            entries[self._key(call, self._digest(call, reply.origin.node))] = entry
            self._holds(len(entries), int(entries.currsize))

    def find(self, call: Call) -> Entry | None:
        """The answer to `call` in the shape that it asks for, if one was kept."""
        if not self._rules.enabled or not self._answers(call):
            return None
        for digest in self._digests(call):
            entry = self._entries.get(self._key(call, digest))
            if entry is not None:
                return _shaped(call, entry)
        return None

    def _answers(self, call: Call) -> bool:
        """Whether answers to calls like this one are kept at all."""
        if call.mode is Mode.LOCAL or call.kind is not Kind.INFER or call.hop or call.no_store:
            return False
        if call.model is None or call.body is None or is_cloud(call.model):
            return False
        key = canonical(call.model)
        return key is not None and not self._fleets.current.local.inventory.stub(key)

    def _collected(self) -> int:
        """Bytes that running calls have collected so far."""
        return sum(min(one.tap.total, one.tap.keep) for one in self._running())

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
        words = (call.caller, call.operation, canonical(call.model or ""), digest, shape)
        hashed = hashlib.blake2b(repr(words).encode(), key=self._secret, digest_size=32)
        body = call.body or b""
        members = without(body, _SHAPE)
        if members is None:
            hashed.update(b"whole %d " % call.stream + body)
        for member in members or ():
            hashed.update(b"%d " % len(member))
            hashed.update(member)
        return hashed.digest()


def _size(entry: Entry) -> int:
    return len(entry.body) + _AROUND


def _shaped(call: Call, entry: Entry) -> Entry | None:
    if call.operation not in _BOTH or entry.lines == call.stream:
        return entry
    turn, header = (unfolded, _LINES) if call.stream else (folded, _OBJECT)
    body = turn(call.operation, entry.body)
    return None if body is None else Entry((header,), body, entry.at)
