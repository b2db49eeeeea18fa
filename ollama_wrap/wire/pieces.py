"""The chunked body of a reply, taken apart chunk by chunk. Pure, no I/O.

Chunks are never joined, and one that comes in several segments waits for its end:
clients take a chunk for a line. Only a chunk longer than TORN is handed on in
parts. Trailers are read and dropped.
"""

import re

from ollama_wrap.errors import BadReply

#: A chunk longer than this is handed on in parts. Stock writes 4 KiB at a time.
TORN = 64 * 1024
#: Bytes of a size with its extensions, and of all trailers.
LONGEST = 4096
MAX_TRAILERS = 64 * 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\Z")


class Pieces:
    """One body; feed it until it says what follows."""

    __slots__ = ("_held", "_left", "_trailers")

    def __init__(self) -> None:
        #: what came of a line, or of a chunk
        self._held = b""
        #: in a chunk longer than TORN: its bytes still to come, line end not counted
        self._left: int | None = None
        #: bytes of the trailers so far; None before them
        self._trailers: int | None = None

    def feed(self, segment: bytes, into: list[bytes]) -> bytes | None:
        """Add the chunks that are whole; returns what follows the body, None before its end.

        Raises BadReply for what is not a chunked body; what came before is in `into`.
        """
        if self._held:
            segment, self._held = self._held + segment, b""
        at = 0
        while self._trailers is None:
            if self._left is not None and (at := self._go_on(segment, at, into)) < 0:
                return None
            end = segment.find(b"\r\n", at)
            if end < 0:
                self._wait(segment[at:], LONGEST)
                return None
            size = _size(segment[at:end])
            begin, stop = end + 2, end + 2 + size
            if not size:
                at, self._trailers = begin, 0
            elif segment[stop : stop + 2] == b"\r\n":
                into.append(segment[begin:stop])
                at = stop + 2
            elif len(segment) > stop + 1:
                raise BadReply("a chunk of the node's reply is longer than its size")
            elif size > TORN:
                at, self._left = begin, size
            else:
                self._held = segment[at:]
                return None
        return self._end(segment[at:])

    def _go_on(self, segment: bytes, at: int, into: list[bytes]) -> int:
        """A part of a long chunk; returns where the next one begins, -1: not here yet."""
        left = self._left or 0
        if left and len(segment) - at < min(TORN, left):
            self._held = segment[at:]
            return -1
        part = segment[at : at + left]
        if part:
            into.append(part)
            at += len(part)
            self._left = left = left - len(part)
        ends = segment[at : at + 2]
        if left or ends in (b"", b"\r"):
            self._held = ends
            return -1
        if ends != b"\r\n":
            raise BadReply("a chunk of the node's reply is longer than its size")
        self._left = None
        return at + 2

    def _end(self, segment: bytes) -> bytes | None:
        """The trailers, and what follows them."""
        while (end := segment.find(b"\r\n")) > 0:
            self._trailers = (self._trailers or 0) + end
            if self._trailers > MAX_TRAILERS or _TRAILER.match(segment[:end]) is None:
                raise BadReply("the node's reply ends in what is no trailer")
            segment = segment[end + 2 :]
        if end == 0:
            return segment[2:]
        self._wait(segment, MAX_TRAILERS)
        return None

    def _wait(self, begun: bytes, most: int) -> None:
        if len(begun) > most:
            raise BadReply("a line of the node's chunked reply is too long")
        self._held = begun

    def rest(self) -> bytes:
        """What is here of a chunk that will not end."""
        held, self._held = self._held, b""
        if self._left is not None:
            return held if self._left else b""
        return held.partition(b"\r\n")[2] if self._trailers is None else b""


def _size(line: bytes) -> int:
    known = _SIZES.get(line)
    if known is not None:
        return known
    found = _SIZE.match(line)
    if found is None:
        raise BadReply("the node's reply has no size where a chunk should begin")
    return int(found[1], 16)


#: sizes as stock writes them: most chunks are short
_SIZES = {b"%x" % size: size for size in range(4096)}
