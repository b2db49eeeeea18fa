"""What a request body says, read as Go's encoding/json reads it; the body itself is never changed.

Owns JSON, zstd and multipart. Stock binds bodies with a streaming decoder: keys
match whatever their case (U+017F for s and U+212A for k included), the last one wins,
bytes after the first value are not looked at. It must not know what the fields
mean: it hands out their raw JSON text.

Ordinary bodies take msgspec's way, at about 1 ms a MiB. It is strict where Go is
not, and blind to case; what it cannot read goes to a scanner written out here.
That one has limits, so that no body holds the loop for long.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec
import zstandard

from ollama_wrap.call import Header, LongBody

#: the raw JSON of a value; a view, so that a long one is not copied
Text = bytes | memoryview
#: values by name, of the fields that were asked for
Values = dict[str, Text]
#: values that a later one of the same name replaced
Overwritten = list[tuple[str, Text]]

#: stock's own limits: server/cloud_proxy.go, and encoding/json's nesting
_DECODED_LIMIT = 20 << 20
_WINDOW_LIMIT = 8 << 20
_DEPTH_LIMIT = 10_000
PARTS_LIMIT = 64
#: frames of zstd: one is usual, and each costs something even if nothing is in it
_FRAMES_LIMIT = 1000
_FRAMES = (b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18")
#: bytes that are decoded at a time
_STEP = 64 * 1024
#: what the scanner takes on: each of the three costs some 50 ms at most
_BUDGET = 50_000
_SCAN_LIMIT = 8 << 20
_ESCAPES_LIMIT = 500_000

# Raw values: what is nested is checked, and never built.
_quick = msgspec.json.Decoder(dict[str, msgspec.Raw])
# Possessive throughout: no body makes it try anything twice.
_token = re.compile(
    rb"[ \t\r\n]*+("
    rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
    rb"|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+|true|false|null"
    rb"|[\[\]{},:])"
)
# JSON's grammar: what has to follow, by what had to come and the first byte of what came.
_SCALAR = dict.fromkeys(b'"-0123456789tfn', "next")
_VALUE = {**_SCALAR, ord("{"): "key or end", ord("["): "value or end"}
_FOLLOWS = {
    (state, mark): following
    for state, marks in {
        "value": _VALUE,
        "value or end": {**_VALUE, ord("]"): "next"},
        "key": {ord('"'): "colon"},
        "key or end": {ord('"'): "colon", ord("}"): "next"},
        "colon": {ord(":"): "value"},
        "next": {ord(","): "again", ord("}"): "next", ord("]"): "next"},
    }.items()
    for mark, following in marks.items()
}
_CLOSER = {ord("{"): ord("}"), ord("["): ord("]")}
_next_key = re.compile(
    rb'[ \t\r\n]*+[{,][ \t\r\n]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\r\n]*+:[ \t\r\n]*+'
)
_end = re.compile(rb"[ \t\r\n]*+\}[ \t\r\n]*+\Z")
_surrogate = re.compile("[\ud800-\udfff]")
_boundary = re.compile(
    r';\s*boundary=(?:"([^"\\]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)', re.IGNORECASE
)
_field_name = re.compile(rb';\s*name=(?:"([^"\\]*)"|([^\s;"]+))', re.IGNORECASE)


def fields(
    body: bytes, wanted: Mapping[str, bool], *, whole: bool = True
) -> tuple[Values, Overwritten] | None:
    """The top-level fields among `wanted`, and those of them that a later one has overwritten.

    `wanted` maps a lower-case name to whether JSON's null clears an earlier value
    (Go: pointers, lists, maps) or leaves it (strings, numbers, booleans).
    `whole=False`: `body` is only a beginning; what it holds in full is read.
    None: Go would refuse the body, or it is too odd for the scanner's budget.
    Values that msgspec saw repeated under one spelling are not listed as overwritten.
    """
    if whole:
        try:
            found = _quick.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = None
        if found is not None and (values := _plain(found, wanted)) is not None:
            return values, []
    pairs = _scan(body, whole=whole)
    if pairs is None:
        return None
    return valued(((fold(key), value) for key, value in pairs), wanted)


def valued(
    pairs: Iterable[tuple[str, Text]], wanted: Mapping[str, bool]
) -> tuple[Values, Overwritten]:
    """What `fields` says of members by folded name, in their order."""
    values: Values = {}
    overwritten: Overwritten = []
    for name, value in pairs:
        if name not in wanted:
            continue
        if value == b"null":
            if wanted[name]:
                values.pop(name, None)
            continue
        if name in values:
            overwritten.append((name, values[name]))
        values[name] = value
    return values, overwritten


def _plain(found: dict[str, msgspec.Raw], wanted: Mapping[str, bool]) -> Values | None:
    # None: a name in another spelling, or a null that may hide an earlier value.
    values: Values = {}
    for key, raw in found.items():
        if key in wanted:
            value: Text = memoryview(raw)
            if value != b"null":
                values[key] = value
            elif not wanted[key]:
                return None
        elif fold(key) in wanted:
            return None
    return values


def fold(key: str) -> str:
    """A name as it is compared: Go finds a field whatever the case of its letters."""
    return (
        key.lower() if key.isascii() else key.replace("\u017f", "s").replace("\u212a", "k").lower()
    )


def _scan(body: bytes, *, whole: bool) -> list[tuple[str, Text]] | None:
    """The pairs of the outermost object, in order; None where Go's scanner would refuse."""
    if not whole:
        body = body[:_SCAN_LIMIT]
    if len(body) > _SCAN_LIMIT or body.count(b"\\") > _ESCAPES_LIMIT:
        return None
    view = memoryview(body)
    pairs: list[tuple[str, Text]] = []
    key, start = "", -1
    # Only the outermost object matters: of what lies deeper, where it begins and ends.
    for state, depth, begin, end in _walk(body):
        if state == "colon":
            key, start = string(view[begin:end]), -1
        elif start < 0 and state != "value":
            start = begin
        if depth == 0:
            return pairs if body[begin:end] in (b"}", b"null") else None
        if depth == 1 and state == "next":
            pairs.append((key, view[start:end]))
    # It ended before its outermost object did.
    return None if whole else pairs


def _walk(body: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Each token of the two outer levels: what has to follow, depth after it, where it lies.

    Ends early at the first byte that is not JSON, or when the budget is spent.
    """
    state, end = "value", 0
    closers = bytearray()
    for _ in range(_BUDGET):
        match = _token.match(body, end)
        if match is None:
            return
        begin, end = match.span(1)
        mark = body[begin]
        depth = len(closers)
        state = _FOLLOWS.get((state, mark), "")
        if mark in _CLOSER:
            closers.append(_CLOSER[mark])
        elif mark in b"}]" and (not closers or closers.pop() != mark):
            return
        elif state == "again":
            state = "key" if closers[-1:] == b"}" else "value"
        if not state or len(closers) > _DEPTH_LIMIT:
            return
        if depth < 2 or len(closers) < 2:
            yield state, len(closers), begin, end


def string(value: Text) -> str:
    """The text of a JSON string; bytes that are no UTF-8 and half a surrogate pair are U+FFFD."""
    text = bytes(value).decode("utf-8", "replace")
    return _surrogate.sub("\ufffd", json.loads(text)) if "\\" in text else text[1:-1]


def without(body: bytes, names: Collection[str]) -> list[Text] | None:
    """Key and value of each member of a JSON object, but for `names` in any spelling.

    None where two bodies that mean different things could come out alike: a name
    stands there twice, bytes follow, or it is no plain JSON object.
    """
    members = _members(body)
    if members is None:
        return None
    kept: list[Text] = []
    for name, key, value, _ in members:
        if name not in names:
            kept += (key, value)
    return kept


def string_places(body: bytes, names: Collection[str]) -> tuple[tuple[int, int], ...]:
    """Where the strings lie, in quotes, that a JSON object has under `names` in any spelling.

    First and last place (exclusive) of each. None of them where `without` gives up.
    """
    return tuple(
        (start, start + len(value))
        for name, _, value, start in _members(body) or ()
        if name in names and value[0] == ord('"')
    )


def rewritten(
    body: bytes | LongBody, places: Sequence[tuple[int, int]], text: str
) -> bytes | LongBody:
    """The body with the JSON string `text` at each of these places, which are in order."""
    if isinstance(body, LongBody):
        for start, end in reversed(places):
            body = body.replaced(start, end, json.dumps(text).encode())
        return body
    parts: list[bytes] = []
    at = 0
    for start, end in places:
        parts += (body[at:start], json.dumps(text).encode())
        at = end
    return b"".join((*parts, body[at:]))


def _members(body: bytes) -> list[tuple[str, bytes, memoryview, int]] | None:
    """Folded name, key and value as they stand there, and where the value begins."""
    try:
        found = _quick.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    members: list[tuple[str, bytes, memoryview, int]] = []
    at = 0
    # What was decoded is looked up again in the bytes: a name that stands twice is not there.
    for name, raw in found.items():
        match = _next_key.match(body, at)
        if match is None or not body.startswith(raw, match.end()):
            return None
        value = memoryview(raw)
        at = match.end() + len(value)
        members.append((fold(name), match[1], value, match.end()))
    return members if _end.match(body, at) else None


def unpacked(body: bytes, headers: Sequence[Header]) -> bytes | None:
    """The body without its zstd coding, as stock's cloud passthrough undoes it on `/v1`.

    None: broken, of very many frames, or more than 20 MiB when decoded. Costs what 20 MiB
    cost, at most.
    """
    if not packed(headers):
        return body
    if sum(map(body.count, _FRAMES)) > _FRAMES_LIMIT:
        return None
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).stream_reader(
        body, read_across_frames=True
    )
    try:
        # One byte more than may be, to see whether there is more.
        decoded = reader.read(_DECODED_LIMIT + 1)
    except zstandard.ZstdError:
        return None
    return decoded if len(decoded) <= _DECODED_LIMIT else None


class _Decoded:
    """Takes what the decoder makes."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0

    def write(self, piece: bytes) -> int:
        """Raises ZstdError where it is too much."""
        self.size += len(piece)
        if self.size > _DECODED_LIMIT:
            raise zstandard.ZstdError
        self.pieces.append(bytes(piece))
        return len(piece)


class Unpacking:
    """One body in zstd's coding; what is broken, or too much, gives nothing more."""

    def __init__(self) -> None:
        self._decoded = _Decoded()
        decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT)
        self._writer = decoder.stream_writer(self._decoded, write_size=_STEP)  # type: ignore[arg-type]
        self._frames = 0
        self._broken = False

    def plain(self, piece: bytes) -> list[bytes]:
        """What comes of the next bytes, 64 KiB each at most; 20 MiB in all."""
        self._frames += sum(map(piece.count, _FRAMES))
        if self._broken or self._frames > _FRAMES_LIMIT:
            return []
        try:
            self._writer.write(piece)
        except zstandard.ZstdError:
            self._broken = True
            return []
        made, self._decoded.pieces = self._decoded.pieces, []
        return made


def packed(headers: Sequence[Header]) -> bool:
    """Whether a body comes in zstd's coding."""
    return _header(headers, b"content-encoding") == b"zstd"


def form_field(body: bytes, headers: Sequence[Header], name: bytes) -> str | None:
    """The first field `name` of a multipart form, as Go's FormValue gives it.

    None: no such field among the first 64 parts, or a form of an unusual make
    (a transfer encoding, an encoded name), which is left for stock to read.
    """
    line = form_line(headers)
    if line is None:
        return None
    # The first line may lack the line end that belongs to the others.
    at = len(line) - 2 if body.startswith(line[2:]) else body.find(line) + len(line)
    for _ in range(PARTS_LIMIT):
        head_end = body.find(b"\r\n\r\n", at, at + 16_384)
        end = body.find(line, head_end + 2)
        if head_end < 0 or end < 0 or body[at : at + 2] != b"\r\n":
            return None
        head = body[at:head_end].lower()
        # Encodings that Go undoes and we do not: stock reads it itself.
        if b"*=" in head or b"content-transfer-encoding" in head:
            return None
        found = _field_name.search(body, at, head_end)
        # A file of that name is no field.
        if found and (found[1] or found[2]) == name and b"filename" not in head:
            return body[head_end + 4 : end].decode("utf-8", "replace")
        at = end + len(line)
    return None


def form_line(headers: Sequence[Header]) -> bytes | None:
    """What parts the fields of a form, with the end of the line before; None: it is none."""
    content_type = _header(headers, b"content-type").decode("latin-1")
    boundary = _boundary.search(content_type)
    if boundary is None or not content_type.lower().startswith("multipart/form-data"):
        return None
    return b"\r\n--" + (boundary[1] or boundary[2]).encode("latin-1")


def _header(headers: Sequence[Header], name: bytes) -> bytes:
    return next((value for key, value in headers if key.lower() == name), b"")
