"""Outbox: the short writes of one turn of the loop, sent together when the turn is over.

A send to a reader that sleeps wakes it, which takes three times as long as the send
itself. Sent one after the other at the end of a turn, most find their reader awake.
Nobody waits longer for it than the loop was busy.
"""

import asyncio
from weakref import WeakKeyDictionary

#: Bytes of a write that is worth a send of its own.
LONG = 16 * 1024


class Outbox:
    """What is to be sent at the end of this turn, in order."""

    __slots__ = ("_loop", "_writes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writes: list[tuple[asyncio.Transport, bytes]] = []

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send `data` behind all that was written before; closed ones are passed over."""
        if len(data) > LONG:
            self.flush()
            transport.write(data)
            return
        writes = self._writes
        if not writes:
            self._loop.call_soon(self.flush)
        elif writes[-1][0] is transport:
            # The last piece of an answer and its end, say.
            data = writes.pop()[1] + data
        writes.append((transport, data))

    def flush(self) -> None:
        """Send now: somebody writes to a transport, or ends it, without us."""
        writes, self._writes = self._writes, []
        for transport, data in writes:
            if transport.is_closing():
                continue
            try:
                transport.write(data)
            except (OSError, RuntimeError):
                # One that takes no more ends; what is for the others must not be lost for it.
                transport.abort()


_boxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Outbox] = WeakKeyDictionary()


def of(loop: asyncio.AbstractEventLoop) -> Outbox:
    """The outbox of a loop; all connections on it share one."""
    box = _boxes.get(loop)
    if box is None:
        box = _boxes[loop] = Outbox(loop)
    return box
