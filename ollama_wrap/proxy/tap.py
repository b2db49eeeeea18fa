"""Watches a passing body for its first byte, size, end and usage; never changes a byte."""

from collections.abc import Callable

from msgspec import Struct

#: Bytes of a body's end that say whether it is whole, and the most that is kept of it.
TAIL = 16 * 1024
_MOST = 4 * TAIL


class Tap(Struct, eq=False):
    """What was seen of one body. `keep` bytes are kept for the cache, 0 for none."""

    _clock: Callable[[], float]
    keep: int
    #: monotonic seconds of the first byte
    first: float | None = None
    total: int = 0
    pieces: int = 0
    body: list[bytes] = []
    _size: int = 0

    def feed(self, pieces: list[bytes]) -> None:
        """Pieces on their way to the client."""
        if self.first is None:
            self.first = self._clock()
        self.pieces += len(pieces)
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        self.total += size
        self._size += size
        self.body += pieces
        if self._size > self.keep and self._size > _MOST:
            self._shorten()

    def tail(self) -> bytes:
        """The last bytes, at least 16 KiB of them if there were so many."""
        if self._size > TAIL:
            self._shorten()
        return self.body[0] if len(self.body) == 1 else b"".join(self.body)

    def whole(self) -> bytes | None:
        """The body, if all of it was kept."""
        if self.total > self.keep:
            return None
        return self.body[0] if len(self.body) == 1 else b"".join(self.body)

    def _shorten(self) -> None:
        if self._size > TAIL and self.total > self.keep:
            end = b"".join(self.body)[-TAIL:]
            self.body = [end]
            self._size = len(end)
