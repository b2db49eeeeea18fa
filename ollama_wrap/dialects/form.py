"""Long forms, read while they come: what `body.form_field` says of the whole.

Owns what of a form has to be kept for that; it must not know what its fields mean.
"""

from collections.abc import Sequence

from ollama_wrap.call import Header
from ollama_wrap.dialects.body import PARTS_LIMIT, form_field, form_line

#: Bytes that are kept of a field: its head, and what it says if that is short.
_NEAR = 64 * 1024


class Form:
    """One form less what is long in it."""

    def __init__(self, headers: Sequence[Header]) -> None:
        self._headers = headers
        self._line = form_line(headers)
        self._kept: list[bytes] = []
        self._last = b""
        self._fields = 0
        #: bytes that are still kept of this field, and whether the last piece was
        self._near, self._kept_last = _NEAR, True

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        if self._line is None or self._fields > PARTS_LIMIT:
            return
        count = (self._last + piece).count(self._line)
        keep = count > 0 or self._near > 0
        if keep:
            self._kept += (piece,) if self._kept_last else (self._last, piece)
        self._kept_last = keep
        self._near = _NEAR if count else self._near - len(piece)
        self._fields += count
        self._last = (self._last + piece)[1 - len(self._line) :]

    def field(self, name: bytes) -> str | None:
        """As `form_field`, of a field that is shorter than 48 KiB."""
        return form_field(b"".join(self._kept), self._headers, name)
