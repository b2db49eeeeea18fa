"""Known: a head that has been read, in the clothes of the parser that uvicorn asks about it.

For requests of our own paths, which go uvicorn's usual way. Knows nothing of connections.
"""

import re

from ollama_wrap.call import Header
from ollama_wrap.wire.head import Head

_UNUSUAL = re.compile(rb"[^\x21-\x7e]")


class Known:
    """What uvicorn asks its parser of a head that has been read."""

    def __init__(self, head: Head) -> None:
        self._head = head

    def get_http_version(self) -> str:
        """As in the request line."""
        return "1.1" if self._head.http11 else "1.0"

    def get_method(self) -> bytes:
        """As in the request line."""
        return self._head.method.encode()

    def should_keep_alive(self) -> bool:
        """Whether the client wants the connection to stay."""
        return self._head.alive

    def should_upgrade(self) -> bool:
        """Never: nobody here speaks another protocol."""
        return False

    @property
    def url(self) -> bytes:
        """The target; its URL parser takes no 8-bit bytes."""
        return _UNUSUAL.sub(lambda found: b"%%%02X" % found[0][0], self._head.target)

    @property
    def headers(self) -> list[Header]:
        """The fields, by lower-case name."""
        return [(name.lower(), value) for name, value in self._head.headers]
