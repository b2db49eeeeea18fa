"""One TCP connection of a client, as bytes.

Owns: the bytes that came and were not taken yet, flow control both ways, how a connection ends.
Must not know: HTTP.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import cast

_HIGH_WATER = 256 * 1024
_LINGER_NOT = struct.pack("ii", 1, 0)


class GoneError(Exception):
    """The client closed its side while something was still expected of it."""


class Connection(asyncio.Protocol):
    """Bytes in and out; `serve(connection)` is run as its task and ends the connection."""

    def __init__(
        self,
        serve: "Callable[[Connection], Coroutine[None, None, None]]",
        lost: "Callable[[Connection], None]",
    ) -> None:
        self.number = 0
        #: True once the client has closed its side or broken the connection
        self.client_left = False
        self._ended = False
        self._serve = serve
        self._lost = lost
        self._buffer = bytearray()
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._watching = False
        self._transport: asyncio.Transport | None = None
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # Nothing is kept back in the program: a write is done when the kernel has it.
        self._transport.set_write_buffer_limits(high=0)
        self.task = asyncio.get_running_loop().create_task(self._serve(self))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._came.set()
        if len(self._buffer) > _HIGH_WATER:
            self.pause()

    def eof_received(self) -> bool:
        # Go takes a half-closed client for one that has left; so does the fake.
        self._leave()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self._room.set()
        self._lost(self)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def line_end(self, mark: bytes, limit: int) -> bytes:
        """Return the bytes up to and with `mark`; b"" if it is not within `limit`.

        Raises GoneError.
        """
        while (at := self._buffer.find(mark)) < 0:
            if len(self._buffer) > limit:
                return b""
            await self._more()
        return self._cut(at + len(mark))

    async def some(self, most: int) -> bytes:
        """Return between one and `most` bytes. Raises GoneError."""
        while not self._buffer:
            await self._more()
        return self._cut(min(most, len(self._buffer)))

    async def exactly(self, size: int) -> bytes:
        """Return `size` bytes. Raises GoneError."""
        while len(self._buffer) < size:
            await self._more()
        return self._cut(size)

    def watch(self, *, on: bool) -> None:
        """While on, a client that leaves cancels the task; Go's server does it so."""
        self._watching = on
        if on and self.client_left and self.task is not None:
            self.task.cancel()

    def pause(self) -> None:
        """Read nothing more from the socket."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    async def write(self, data: bytes) -> None:
        """Return when the kernel has taken the bytes. Raises GoneError."""
        if self._transport is None or self._transport.is_closing():
            raise GoneError
        self._transport.write(data)
        await self._room.wait()

    def half_close(self) -> None:
        """End our side only."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """End the connection in order, with what was written."""
        self._ended = True
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """End the connection with an RST."""
        self._ended = True
        if self._transport is None or self._transport.is_closing():
            return
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        self._transport.abort()

    async def _more(self) -> None:
        if self.client_left or self._ended:
            raise GoneError
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()
        self._came.clear()
        await self._came.wait()

    def _cut(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _leave(self) -> None:
        self.client_left = self.client_left or not self._ended
        self._came.set()
        if self._watching and self.task is not None:
            self.task.cancel()
