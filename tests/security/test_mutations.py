"""Requests with bytes changed at random: we take them as Go does, or not at all."""

import asyncio
import contextlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ollama_wrap.testing.connection import GoneError
from ollama_wrap.testing.request import UnreadableError, read_head
from ollama_wrap.wire.base import Exchange, Framing
from ollama_wrap.wire.guard import Limits
from tests.fakes.heads import ACCEPTED, OTHERWISE, REFUSED
from tests.wire.stage import client, serving
from tests.wire.test_framing import BROKEN_CHUNKS

#: connections, and mutated requests on each
CONNECTIONS, EACH = 4000, 5
CODED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
INNER = b"GET /inner HTTP/1.1\r\nHost: b\r\n\r\n"
SOUND = [
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b'POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n{"model":1}',
    b"POST /x HTTP/1.1\r\nHost: a\r\nX: y\r\nContent-Length: 32\r\n\r\n" + INNER,
    CODED + b"3\r\nabc\r\n0\r\n\r\n",
    CODED + b"3;x=y\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\n",
]
CORPUS = [
    *(raw for raw in (REFUSED | ACCEPTED).values() if len(raw) < 1000),
    *(raw for raw, _ in OTHERWISE.values() if len(raw) < 1000),
    *(CODED + chunks for chunks in BROKEN_CHUNKS.values()),
]
#: what makes a difference to a parser
SALT = [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b"\0", b"\x0b", b"0", b"1", b"\xff"]
SALT += [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.0", b"\r\n\r\n"]

Seen = tuple[str, bytes, bytes]


def mutated(dice: random.Random) -> bytes:
    """None to three changes: a byte, something put in, something left out, two put together."""
    raw = dice.choice(SOUND if dice.random() < 0.8 else CORPUS)
    for _ in range(dice.choice((0, 0, 1, 2, 3))):
        at = dice.randrange(len(raw) + 1)
        match dice.randrange(4):
            case 0:
                raw = raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :]
            case 1:
                raw = raw[:at] + dice.choice(SALT) + raw[at:]
            case 2:
                raw = raw[:at] + raw[at + dice.randint(1, 8) :]
            case _:
                raw = raw[:at] + dice.choice(CORPUS)[dice.randrange(20) :]
    return raw


class Bytes:
    """What the fake's reader of requests reads from, all of it here."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    async def line_end(self, end: bytes, limit: int) -> bytes:
        at = self._raw.find(end)
        if at < 0:
            raise GoneError
        return await self.exactly(at + len(end))

    async def some(self, most: int) -> bytes:
        return await self.exactly(min(most, len(self._raw) or 1))

    async def exactly(self, size: int) -> bytes:
        if size > len(self._raw):
            raise GoneError
        part, self._raw = self._raw[:size], self._raw[size:]
        return part

    async def write(self, _: bytes) -> None:
        """`100 Continue` goes nowhere."""


async def as_go(raw: bytes) -> list[Seen]:
    """The requests that Go sees in a connection's bytes, until it would end it."""
    seen: list[Seen] = []
    connection = Bytes(raw)
    with contextlib.suppress(GoneError, UnreadableError):
        while True:
            request = await read_head(connection)  # type: ignore[arg-type]
            body = b"".join([piece async for piece in request.pieces()])
            seen.append((request.method, request.target.encode("latin-1"), body))
            if not request.keeps_alive:
                break
    return seen


@dataclass(slots=True)
class Taker:
    """Reads each request whole and says that it did."""

    seen: list[Seen]

    def take(self, exchange: Exchange) -> bool:
        exchange.ready = self.begin
        return True

    def begin(self, exchange: Exchange) -> None:
        task = asyncio.ensure_future(self.answer(exchange))
        exchange.gone = task.cancel

    async def answer(self, exchange: Exchange) -> None:
        body = await exchange.whole(1 << 20)
        self.seen.append((exchange.method, exchange.target, body or b""))
        exchange.gone = None
        exchange.begin(200, b"OK", [(b"Content-Length", b"2")], Framing.LENGTH)
        exchange.feed([b"ok"])
        exchange.end()


async def sent(port: int, raw: bytes) -> bytes:
    async with client(port) as peer:
        with contextlib.suppress(ConnectionError):
            await peer.send(raw)
            peer.half_close()
        return await peer.rest()


def agree(ours: Sequence[Seen], theirs: Sequence[Seen]) -> bool:
    """Whether both saw the same requests, as far as both saw any."""
    pairs = [(one, other) for one, other in zip(ours, theirs, strict=False)]
    return all(
        one == other or (other[1][:4].lower() == b"http" and one[::2] == other[::2])
        for one, other in pairs
    )


async def test_whatever_bytes_come_go_sees_the_same_requests() -> None:
    """S01 to S08, S10, S13, S14, S19: no crash, no answer of 500, and no second opinion."""
    dice = random.Random(4)
    taker = Taker([])
    wrong: list[bytes] = []
    statuses: set[bytes] = set()
    taken = 0
    async with serving(taker.take, Limits()) as port:
        for _ in range(CONNECTIONS):
            raw = b"".join(mutated(dice) for _ in range(EACH))
            taker.seen = []
            got = await sent(port, raw)
            if not agree(taker.seen, await as_go(raw)):
                wrong.append(raw)
            taken += len(taker.seen)
            statuses |= set(re.findall(rb"HTTP/1\.[01] (\d+) ", got))

    assert wrong == []
    assert statuses <= {b"100", b"200", b"400", b"408", b"414", b"417", b"431", b"505"}
    assert taken > CONNECTIONS // 3
