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
    body: list[bytes] = []
    #: bytes that are no longer in `body`; and whether it had more than one piece when they left
    _gone: int = 0
    _several: bool = False

    @property
    def several(self) -> bool:
        """Whether it came in more than one piece."""
        return self._several or len(self.body) > 1

    def feed(self, pieces: list[bytes]) -> None:
        """Pieces on their way to the client."""
        if self.first is None:
            self.first = self._clock()
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        total = self.total = self.total + size
        self.body += pieces
        if total - self._gone > _MOST and total > self.keep:
            self._shorten()

    def tail(self) -> bytes:
        """The last bytes, at least 16 KiB of them if there were so many."""
        if self.total - self._gone > TAIL and self.total > self.keep:
            self._shorten()
        return self.body[0] if len(self.body) == 1 else b"".join(self.body)

    def whole(self) -> bytes | None:
        """The body, if all of it was kept."""
        if self.total > self.keep:
            return None
        return self.body[0] if len(self.body) == 1 else b"".join(self.body)

    def _shorten(self) -> None:
        self._several = self.several
        end = b"".join(self.body)[-TAIL:]
        self.body = [end]
        self._gone = self.total - len(end)
