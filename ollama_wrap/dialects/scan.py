"""Scan: the fields of a long JSON object, found while it comes and without holding it.

Owns where members of the outermost object begin and end; it must not know what they
mean. What lies deeper is stepped over with what bytes do fast, and never checked: a
node refuses it itself. A piece of 64 KiB takes 0.1 ms as a rule and 4 ms at most,
whatever it holds, so that other calls can go on between two.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from itertools import accumulate

from ollama_wrap.dialects.body import Overwritten, Text, Values, fold, string, valued

#: Bytes of a value that are kept; of a longer one it is known how it begins.
KEPT = 1024
#: Members of the outermost object, and how deep it may be (encoding/json's own limit).
_MEMBERS, _DEPTH = 256, 10_000
#: Bytes that are stepped over at once: few where a value may end, else more and more.
_LEAST, _MOST, _FACTOR = 256, 64 * 1024, 16
#: Brackets that close at once are taken away in so many rounds.
_ROUNDS = 4

_OPEN, _CLOSE = b"\x01", b"\xff"
_BRACKETS = bytes.maketrans(b"[{]}", _OPEN * 2 + _CLOSE * 2)
_OTHERS = bytes(set(range(256)) - set(b"[{]}"))
_blanks = re.compile(rb"[ \t\r\n]*+")
_scalar = re.compile(rb"[-+.0-9A-Za-z]*+")
_mark = re.compile(rb'\\.|["\[\]{}]', re.DOTALL)
_plain = re.compile(
    rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
    rb"|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+|true|false|null"
)


class _State(StrEnum):
    """What has to come."""

    OBJECT = "object"
    FIRST = "key or end"
    KEY = "key"
    COLON = "colon"
    VALUE = "value"
    INSIDE = "rest of a string, list or object"
    SCALAR = "rest of a number or word"
    NEXT = "comma or end"
    ENDED = "nothing more"
    REFUSED = "nothing: it is no JSON object, or an odd one"


_FOLLOWS = {
    (_State.OBJECT, ord("{")): _State.FIRST,
    (_State.FIRST, ord("}")): _State.ENDED,
    (_State.COLON, ord(":")): _State.VALUE,
    (_State.NEXT, ord(",")): _State.KEY,
    (_State.NEXT, ord("}")): _State.ENDED,
    **dict.fromkeys(((_State.VALUE, mark) for mark in b'"[{'), _State.INSIDE),
    **dict.fromkeys(((_State.VALUE, mark) for mark in b"-0123456789tfn"), _State.SCALAR),
    **dict.fromkeys(((state, ord('"')) for state in (_State.FIRST, _State.KEY)), _State.INSIDE),
}


class Scan:
    """One object; `wanted` as for `body.fields`."""

    def __init__(self, wanted: Mapping[str, bool]) -> None:
        self._wanted = wanted
        self._state = _State.OBJECT
        #: where what was last begun lies, and the beginning of it
        self._start, self._text = 0, b""
        self._naming = False
        self._name = ""
        #: how deep in a value, whether in a string of it, and behind a backslash
        self._depth = 0
        self._quoted = self._escaped = False
        #: bytes of earlier pieces
        self._before = 0
        self._members = 0
        self._pairs: list[tuple[str, Text]] = []
        self._strings: dict[str, list[tuple[int, int]]] = {}

    @property
    def over(self) -> bool:
        """Nothing that comes can change anything."""
        return self._state in (_State.ENDED, _State.REFUSED)

    def feed(self, piece: bytes) -> None:
        """The next bytes, however cut."""
        at = 0
        while at < len(piece) and not self.over:
            at = self._step(piece, at)
        self._before += len(piece)

    def found(self, *, whole: bool = True) -> tuple[Values, Overwritten] | None:
        """As `body.fields`, but that a value longer than KEPT is its first byte alone.

        Also None, for what no client writes: more than 256 members, numbers longer
        than KEPT. A name that came twice in one spelling is among the overwritten.
        """
        if self._state is _State.REFUSED or (whole and self._state is not _State.ENDED):
            return None
        return valued(self._pairs, self._wanted)

    def places(self, name: str) -> tuple[tuple[int, int], ...]:
        """As `body.string_places`, of one of the wanted names."""
        return tuple(self._strings.get(name, ())) if self._state is _State.ENDED else ()

    def _step(self, piece: bytes, at: int) -> int:
        """Take in what comes next; where it ends."""
        if self._state is _State.INSIDE:
            return self._inside(piece, at)
        if self._state is _State.SCALAR:
            return self._word(piece, at)
        match = _blanks.match(piece, at)
        at = match.end() if match else at
        if at == len(piece):
            return at
        mark, before = piece[at], self._state
        self._state = _FOLLOWS.get((before, mark), _State.REFUSED)
        if self._state is _State.INSIDE or self._state is _State.SCALAR:
            self._naming = before is not _State.VALUE
            self._start, self._text = self._before + at, b""
            if self._state is _State.SCALAR:
                return at
            self._text = piece[at : at + 1]
            self._quoted, self._depth = mark == ord('"'), int(mark != ord('"'))
        return at + 1

    # one key or value

    def _word(self, piece: bytes, at: int) -> int:
        match = _scalar.match(piece, at)
        end = match.end() if match else at
        self._keep(piece, at, end)
        if end < len(piece):
            self._has_ended(end)
        return end

    def _inside(self, piece: bytes, at: int) -> int:
        begin, size, most = at, _LEAST, _MOST
        while at < len(piece):
            block = piece[at : at + size]
            if self._passes(block):
                at += len(block)
                size = min(size * _FACTOR, most)
            elif size > _LEAST:
                most = size = max(size // _FACTOR, _LEAST)  # it ends in there
            elif end := self._end(block):
                self._keep(piece, begin, at + end)
                self._has_ended(at + end)
                return at + end
            else:
                self._state = _State.REFUSED
                return at
        self._keep(piece, begin, at)
        if self._depth > _DEPTH:
            self._state = _State.REFUSED
        return at

    def _passes(self, block: bytes) -> bool:
        """Whether what is open is still so behind `block`; if not, nothing is changed."""
        escaped, inside = False, block[1:] if self._escaped else block
        if b"\\" in inside:
            inside = inside.replace(b"\\\\", b"").replace(b'\\"', b"")
            escaped = inside.endswith(b"\\")
        # Every other part is in a string.
        parts = inside.split(b'"')
        if self._depth == 0:
            if len(parts) > 1:
                return False
        else:
            brackets = b"".join(parts[self._quoted :: 2]).translate(_BRACKETS, _OTHERS)
            depth = _behind(brackets, self._depth) if brackets else self._depth
            if depth == 0:
                return False
            self._depth = depth
            self._quoted ^= len(parts) % 2 == 0
        self._escaped = escaped
        return True

    def _end(self, block: bytes) -> int:
        """Where in `block` what is open ends; 0: a backslash stands where none may be."""
        for match in _mark.finditer(block, int(self._escaped)):
            mark = match[0]
            if mark == b'"':
                self._quoted = not self._quoted
            elif not self._quoted:
                if len(mark) > 1:
                    break
                self._depth += 1 if mark in b"[{" else -1
            if not self._depth and not self._quoted:
                self._escaped = False
                return match.end()
        return 0

    def _keep(self, piece: bytes, begin: int, end: int) -> None:
        room = KEPT + 1 - len(self._text)
        if room > 0 and begin < end:
            self._text += piece[begin : min(end, begin + room)]

    def _has_ended(self, at: int) -> None:
        """A key or a value ends at `at` of this piece."""
        text, naming = self._text, self._naming
        self._state = _State.COLON if naming else _State.NEXT
        long = len(text) > KEPT
        if not long and text[0] not in b"[{" and _plain.fullmatch(text) is None:
            self._state = _State.REFUSED
        elif naming:
            self._name = "" if long else fold(string(text))
        elif self._members == _MEMBERS:
            self._state = _State.REFUSED
        else:
            self._members += 1
            if self._name in self._wanted:
                self._take(text[:1] if long else text, self._before + at, long=long)

    def _take(self, text: bytes, end: int, *, long: bool) -> None:
        if long and text not in (b'"', b"[", b"{"):
            self._state = _State.REFUSED
            return
        self._pairs.append((self._name, text))
        if text[0] == ord('"'):
            self._strings.setdefault(self._name, []).append((self._start, end))


def _behind(brackets: bytes, depth: int) -> int:
    """How deep it is behind these brackets; 0: it comes to the end among them."""
    for _ in range(_ROUNDS):
        fewer = brackets.replace(_OPEN + _CLOSE, b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    closing = brackets.count(_CLOSE)
    if closing >= depth:
        # As signed bytes they are steps up and down.
        steps = memoryview(brackets).cast("b")
        if min(accumulate(steps, initial=depth)) <= 0:
            return 0
    return depth + len(brackets) - 2 * closing
