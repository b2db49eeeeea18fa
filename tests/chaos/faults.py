"""A fault proxy: one TCP port before another, whose bytes it delays, cuts, bends or loses.

`async with FaultProxy(target) as proxy` listens on a free port of loopback. `proxy.fault` says
what happens to connections, also to those that are open, from now on; `proxy.fault = Fault()`
heals it. It knows no HTTP; offsets count the bytes from the target on one connection since its
fault was set.
"""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

_RESET = struct.pack("ii", 1, 0)
_PIECE = 65536
#: seconds that a pump which holds its bytes waits until it looks again
_LOOK = 0.01


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens; times in seconds, offsets in bytes. What is not set stays whole.

    After so many bytes of an answer: `black_hole` forwards nothing more either way, `reset`
    resets both sides, `half_close` ends the answer with a FIN and goes on reading.
    """

    latency: float = 0.0
    jitter: float = 0.0
    #: bytes a second from the target
    bandwidth: float = 0.0
    #: answers are written in pieces of so many bytes
    slices: int = 0
    black_hole: int | None = None
    reset: int | None = None
    half_close: int | None = None
    #: the byte with this number is another one
    corrupt: int | None = None
    #: nothing is read from the client, or from the target
    deaf_to_client: bool = False
    deaf_to_target: bool = False
    #: connections are reset as soon as they are accepted
    refuse: bool = False
    #: whoever was connected before is unknown: the next byte it sends resets it
    rebooted: bool = False


class FaultProxy:
    """See the module. `connections` counts those that were accepted, `open` those that are."""

    def __init__(self, target: int, host: str = "127.0.0.1", seed: int = 1) -> None:
        self._target = (host, target)
        self._dice = random.Random(seed)
        self._fault = Fault()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self.port = 0
        self.connections = 0

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self._fault = fault
        for link in self._links:
            link.begin(fault)

    @property
    def open(self) -> int:
        return len(self._links)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = [link.task for link in self._links]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._fault.refuse:
            _reset(writer)
            return
        link = _Link((reader, writer), self._fault, self._dice)
        self._links.add(link)
        try:
            await link.run(self._target)
        except asyncio.CancelledError:
            pass  # only the end of the proxy cancels
        finally:
            self._links.discard(link)


class _Link:
    """One client's connection and the one to the target."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        fault: Fault,
        dice: random.Random,
    ) -> None:
        self._client = client
        self._fault = fault
        self._dice = dice
        self._known = True
        #: the answer was ended: what still comes of it is dropped
        self._ended = False
        #: bytes of answers since the fault was set
        self._passed = 0
        current = asyncio.current_task()
        assert current is not None
        self.task = current

    def begin(self, fault: Fault) -> None:
        self._fault = fault
        self._passed = 0
        self._known = not fault.rebooted

    async def run(self, target: tuple[str, int]) -> None:
        reader, writer = self._client
        writers = [writer]
        try:
            there, back = await asyncio.open_connection(*target)
            writers.append(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._to_target(reader, back))
                both.create_task(self._to_client(there, writer))
        except* (OSError, _Reset):
            for one in writers:
                _reset(one)
        finally:
            for one in writers:
                one.close()

    async def _to_target(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await self._while(lambda: self._fault.deaf_to_client)
            piece = await reader.read(_PIECE)
            if not self._known:
                raise _Reset
            await self._while(lambda: self._swallows)
            if not piece:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            await self._late()
            writer.write(piece)
            await writer.drain()

    async def _to_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await self._while(lambda: self._fault.deaf_to_target)
            piece = await reader.read(_PIECE)
            await self._while(lambda: self._swallows)
            if not piece:
                if not self._ended:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                return
            await self._late()
            await self._pass(piece, writer)

    async def _pass(self, piece: bytes, writer: asyncio.StreamWriter) -> None:
        fault = self._fault
        if self._ended:
            return
        if fault.corrupt is not None and 0 <= fault.corrupt - self._passed < len(piece):
            at = fault.corrupt - self._passed
            piece = piece[:at] + bytes([piece[at] ^ 0x55]) + piece[at + 1 :]
        ends = [end for end in (fault.black_hole, fault.reset, fault.half_close) if end is not None]
        room = min(ends, default=self._passed + len(piece)) - self._passed
        whole, piece, rest = len(piece), piece[: max(room, 0)], piece[max(room, 0) :]
        for part in _parts(piece, fault.slices):
            writer.write(part)
            await writer.drain()
            if fault.bandwidth:
                await asyncio.sleep(len(part) / fault.bandwidth)
        self._passed += len(piece)
        if whole <= room and (not ends or self._passed < min(ends)):
            return
        if fault.reset is not None and self._passed >= fault.reset:
            # What was written is to arrive before the reset that would overtake it.
            await asyncio.sleep(_LOOK)
            raise _Reset
        if fault.half_close is not None and self._passed >= fault.half_close:
            self._ended = True
            writer.write_eof()
        await self._while(lambda: self._fault is fault)
        # What a hole swallowed is sent again, as TCP would.
        if fault.black_hole is not None and rest:
            await self._pass(rest, writer)

    @property
    def _swallows(self) -> bool:
        end = self._fault.black_hole
        return end is not None and self._passed >= end

    async def _late(self) -> None:
        fault = self._fault
        if fault.latency or fault.jitter:
            late = fault.latency + self._dice.uniform(-fault.jitter, fault.jitter)
            await asyncio.sleep(max(0.0, late))

    async def _while(self, holds: Callable[[], bool]) -> None:
        while holds():
            await asyncio.sleep(_LOOK)


class _Reset(Exception):
    """Both sides are to be reset."""


def _parts(piece: bytes, size: int) -> list[bytes]:
    if not size:
        return [piece] if piece else []
    return [piece[at : at + size] for at in range(0, len(piece), size)]


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
