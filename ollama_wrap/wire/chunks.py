"""The chunked body of a request, taken apart strictly. Pure, no I/O.

Written out here, because the parser does not say where a body has ended: what
follows in the same segment is the next request. Trailers are read and dropped.
"""

import re

#: Bytes of a size with its extensions, and of all trailers.
LONGEST = 4096
MAX_TRAILERS = 64 * 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")

_AT_SIZE, _IN_CHUNK, _BEHIND_CHUNK, _AT_TRAILER = range(4)


class Chunks:
    """One body; feed it until it says what follows."""

    __slots__ = ("_at", "_kept", "_left", "_trailers")

    def __init__(self) -> None:
        self._at = _AT_SIZE
        self._left = self._trailers = 0
        self._kept = b""

    def feed(self, segment: bytes) -> tuple[bytes, bytes | None]:
        """The body's bytes in `segment`, and what follows the body: None before its end.

        Raises ValueError for what is not a chunked body.
        """
        kept, self._kept = self._kept, b""
        segment = kept + segment if kept else segment
        parts: list[bytes] = []
        at, size = 0, len(segment)
        while at < size:
            if self._at == _IN_CHUNK:
                part = segment[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._at = _BEHIND_CHUNK
                continue
            end = segment.find(b"\n", at) + 1
            if not end:
                self._keep(segment[at:])
                break
            line = segment[at:end]
            at = end
            if self._take(line):
                return b"".join(parts), segment[at:]
        return parts[0] if len(parts) == 1 else b"".join(parts), None

    def _keep(self, begun: bytes) -> None:
        if len(begun) > (2 if self._at == _BEHIND_CHUNK else LONGEST):
            raise ValueError("a line of a chunked body is too long")
        self._kept = begun

    def _take(self, line: bytes) -> bool:
        """One line of the framing; True: the body has ended."""
        if self._at == _AT_SIZE:
            found = _SIZE.fullmatch(line)
            if found is None:
                raise ValueError("not a size of a chunk")
            self._left = int(found[1], 16)
            self._at = _IN_CHUNK if self._left else _AT_TRAILER
            return False
        if self._at == _BEHIND_CHUNK:
            if line != b"\r\n":
                raise ValueError("a chunk is longer than its size")
            self._at = _AT_SIZE
            return False
        self._trailers += len(line)
        if line == b"\r\n":
            return True
        if self._trailers > MAX_TRAILERS or _TRAILER.fullmatch(line) is None:
            raise ValueError("not a trailer")
        return False
