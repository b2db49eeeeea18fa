"""Mutated requests and answers: `python -m tests.chaos.mutate requests …` and `… answers …`.

`requests` sends so many to a port and prints what came back as JSON; `answers` is a node whose
lists are right and whose inference is mutated. The same seed makes the same bytes.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.fakes.heads import ACCEPTED, OTHERWISE, REFUSED, head
from tests.wire.test_framing import BROKEN_CHUNKS

#: requests at a time, and seconds that an answer is waited for
WORKERS, WAIT = 50, 0.1
_RESET = struct.pack("ii", 1, 0)
_ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3}) [^\r\n]*\r\n(.*?)\r\n\r\n", re.DOTALL)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
#: what parsers stumble over
TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"\r\n\r\n", b"\xff", b"0\r\n\r\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"HTTP/1.0"),
    *(b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"Connection: close\r\n", b"%00", b"../"),
    *(b"18446744073709551616", b"-1", b"0x", b"{", b"}", b'"', b"[" * 200, b"\\ud800", b"a" * 9000),
)


def _post(path: bytes, body: bytes, *fields: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return head(length, *fields, line=b"POST %b HTTP/1.1" % path, host=HOST) + body


HOST = b"Host: 127.0.0.1"
SAYS = b'"messages":[{"role":"user","content":"hi"}]'
CHAT = b'{"model":"tiny",%b,"stream":%b}'
GOOD = (
    _post(b"/api/chat", CHAT % (SAYS, b"false")),
    _post(b"/api/chat", CHAT % (SAYS, b"true"), b"Content-Type: application/json"),
    _post(b"/api/generate", b'{"model":"tiny","prompt":"hi","options":{"seed":1}}'),
    _post(b"/v1/chat/completions", CHAT % (SAYS, b"true"), b"Authorization: Bearer x"),
    _post(b"/v1/messages", CHAT % (SAYS, b'true,"max_tokens":5')),
    _post(b"/api/embed", b'{"model":"tiny","input":["a","b"]}'),
    _post(b"/api/show", b'{"model":"tiny"}', b"X-Ollama-Timeout-Ms: 500"),
    _post(b"/admin/mode", b'{"mode":"local"}', b"Authorization: Bearer wrong"),
    head(b"Transfer-Encoding: chunked", line=b"POST /api/chat HTTP/1.1", host=HOST)
    + b"10\r\n" + (CHAT % (SAYS, b"true"))[:16] + b"\r\n0\r\n\r\n",
    *(head(line=b"GET %b HTTP/1.1" % path, host=HOST) for path in (
        b"/", b"/api/tags", b"/api/ps", b"/v1/models/tiny", b"/api/distributed/nodes",
        b"/api/distributed/models/tiny/replicas", b"/metrics", b"/health", b"/x/../y",
    )),
)  # fmt: skip


def requests() -> list[bytes]:
    """Good requests, and the rows of the security checklist."""
    rows = [*REFUSED.values(), *ACCEPTED.values(), *(raw for raw, _ in OTHERWISE.values())]
    line = b"POST /api/chat HTTP/1.1"
    chunks = [
        head(b"Transfer-Encoding: chunked", line=line, host=HOST) + raw
        for raw in BROKEN_CHUNKS.values()
    ]
    return [*GOOD * 4, *(raw.replace(b"Host: a", HOST) for raw in rows), *chunks]


def mutated(corpus: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Endless mutations of a corpus, one to four changes each."""
    dice = random.Random(seed)
    while True:
        raw = bytearray(dice.choice(corpus))
        for _ in range(dice.randint(1, 4)):
            _change(raw, corpus, dice)
        # A mark of a real client must not come out of it.
        yield bytes(raw).replace(b"#", b"%")


def _change(raw: bytearray, corpus: Sequence[bytes], dice: random.Random) -> None:
    at = dice.randrange(len(raw) + 1)
    end = min(len(raw), at + dice.randint(1, 40))
    match dice.randrange(6):
        case 0 if raw:
            raw[min(at, len(raw) - 1)] ^= 1 << dice.randrange(8)
        case 1:
            del raw[at:end]
        case 2:
            raw[at:at] = raw[at:end] * dice.randint(1, 3)
        case 3:
            raw[at:at] = dice.choice(TOKENS)
        case 4:
            other = dice.choice(corpus)
            raw[at:] = other[dice.randrange(len(other) + 1) :]
        case _:
            del raw[at:]


# ---------------------------------------------------------------- requests


@dataclass(slots=True)
class Came:
    """What came of the requests. `ours`: answers of our own, which name no node."""

    sent: int = 0
    connections: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    #: the beginnings of answers of our own with 5xx, but 501 and 505
    ours: list[str] = field(default_factory=list)


async def send(port: int, seed: int, count: int, seconds: float) -> Came:
    """Send so many mutated requests, evenly over so many seconds."""
    came, source = Came(), mutated(requests(), seed)
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def work() -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while came.sent < count:
            await asyncio.sleep(max(0.0, began + came.sent * seconds / count - loop.time()))
            came.sent += 1
            raw = next(source)
            try:
                if reader is None or writer is None:
                    reader, writer = await _connected(port)
                    came.connections += 1
                writer.write(raw)
                data = await asyncio.wait_for(reader.read(65536), WAIT)
            except (OSError, TimeoutError):
                data = b""
            _note(came, data, raw)
            if not data and writer is not None:
                writer.transport.abort()
                reader = writer = None
        if writer is not None:
            writer.transport.abort()

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return came


async def _connected(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sock = writer.get_extra_info("socket")
    # So many connections that wait for their end would leave no port free.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return reader, writer


def _note(came: Came, data: bytes, raw: bytes) -> None:
    for status, fields in _ANSWER.findall(data):
        came.statuses[status.decode()] += 1
        if status >= b"500" and status not in {b"501", b"505"} and b"X-Ollama-Node" not in fields:
            came.ours.append(f"{raw[:300]!r} {data[:300]!r}")


# ---------------------------------------------------------------- answers


MODELS = {"models": [{"name": "odd:latest", "model": "odd:latest", "digest": "a" * 64, "size": 1}]}
LINE = b'{"model":"odd","message":{"role":"assistant","content":"a"},"done":%b}\n'
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"


def answers() -> list[bytes]:
    """Good answers of a node, as streams and whole."""
    first, last = LINE % b"false", LINE % b"true"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in (first, first, last))
    whole = _OK + b"Content-Length: %d\r\n\r\n%b" % (len(last), last)
    error = b'{"error":"an error was encountered while running the model"}'
    failed = b"HTTP/1.1 500 X\r\nContent-Length: %d\r\n\r\n%b" % (len(error), error)
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n"
    return [_CHUNKED + chunks + b"0\r\n\r\n", whole, failed, early + whole, _OK + b"\r\n" + last]


async def serve(seed: int) -> None:
    """A node on a free port of loopback; tells where it listens."""
    source = mutated(answers(), seed)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(request)
                if length is not None:
                    await reader.readexactly(int(length[1]))
                writer.write(_listed(request) or next(source))
                await writer.drain()
                if request.startswith(b"POST"):
                    break
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def _listed(request: bytes) -> bytes | None:
    """The right answer to a question of the sidecar itself."""
    known: dict[bytes, object] = {
        b"/api/version": {"version": "0.33.0"},
        b"/api/tags": MODELS,
        b"/api/ps": {"models": []},
    }
    if not request.startswith(b"GET"):
        return None
    value = known.get(request.split(b" ", 2)[1])
    body = json.dumps(value).encode()
    status = b"404 Not Found" if value is None else b"200 OK"
    kind = b"Content-Type: application/json; charset=utf-8"
    return b"HTTP/1.1 %b\r\n%b\r\nContent-Length: %d\r\n\r\n%b" % (status, kind, len(body), body)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutate", description=__doc__)
    parser.add_argument("what", choices=["requests", "answers"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    if given.what == "answers":
        asyncio.run(serve(given.seed))
        return
    came = asyncio.run(send(given.port, given.seed, given.count, given.seconds))
    told = {"sent": came.sent, "connections": came.connections, "statuses": dict(came.statuses)}
    json.dump({**told, "ours": came.ours[:20]}, sys.stdout)


if __name__ == "__main__":
    main()
