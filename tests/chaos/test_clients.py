"""Clients that read slowly, say nothing, or are very many: C16, C17, C18."""

import asyncio
import contextlib
import json
import resource
import select
import shutil
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.chaos import book
from tests.chaos.figures import Run
from tests.chaos.stage import Stage, host, stage
from tests.chaos.traffic import STREAMS, percentile

MIB = 1 << 20
HOST = b"Host: 127.0.0.1\r\n"
#: a word of 8 KiB, so that long answers cost the fake little
LONG_WORD = "x" * 8180


# ---------------------------------------------------------------- C16


def reader(port: int, name: str, *, segment: int = 0) -> socket.socket:
    """A client that asked for a stream and has not read a byte of it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    if segment:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
    sock.connect(("127.0.0.1", port))
    words = [{"role": "user", "content": "talk to me"}]
    body = json.dumps({"model": name, "messages": words}).encode()
    head = b"POST /api/chat HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (HOST, len(body))
    sock.sendall(head + body)
    sock.setblocking(False)
    return sock


@pytest.mark.chaos
async def test_c16_clients_that_read_one_byte_a_second_or_none(run: Run, tmp_path: Path) -> None:
    # Stalls are looked for every second, whatever they may last.
    run.divide(full=3, short=10)
    slow, asleep = 200, 20
    hosts = {"local": host("tiny,slow,asleep", num_parallel=1000), "r1": host("tiny")}
    sockets: list[socket.socket] = []
    async with stage(run, tmp_path, hosts) as on, _closing(sockets):
        base, loop = on.side.rss, asyncio.get_running_loop()
        said = {"route": "/api/chat", "times": 0, "say": LONG_WORD, "token_delay": 0.02}
        await on["local"].tell(
            {**said, "model": "slow", "repeat": 110},
            # Before anything stalls the system's own buffers fill, which are larger than ours.
            {**said, "model": "asleep", "say": LONG_WORD * 8, "repeat": 400, "token_delay": 0},
        )
        async with on.client.traffic():
            began = loop.time()
            for _ in range(slow):
                sockets.append(reader(on.side.port, "slow"))
                await asyncio.sleep(0.005)
            awake = asyncio.ensure_future(_drip(list(sockets)))
            finished = await _finished(on, slow)
            run.most("generations of slow readers end", finished, 10, "s")
            peak = on.side.rss
            sleepers = [reader(on.side.port, "asleep") for _ in range(asleep)]
            sockets += sleepers
            stalled, reset = await _all_reset(on, sleepers, 200 / run.factor)
            peak = max(peak, on.side.rss)
            run.within("sleeping readers reset after they stalled", reset, 65)
            read = await _stopped(awake)
            run.seen("seconds of it all", loop.time() - began, "s")
        seen = [one for one in on.seen() if one.model.startswith("asleep")]
        ended = max(one.ended or time.time() for one in seen)
        run.within("nodes freed of them after they stalled", ended - stalled, 65)
        run.most("bytes that a slow reader has read", max(read), 100)
        run.most("memory", (peak - base) / MIB, 260, "MiB")
        run.none("healthy requests that failed", on.client.failed())


@contextlib.asynccontextmanager
async def _closing(sockets: list[socket.socket]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for sock in sockets:
            sock.close()


async def _drip(sockets: list[socket.socket]) -> None:
    """Read a byte a second of each."""
    while True:
        await asyncio.sleep(1)
        for sock in sockets:
            with contextlib.suppress(OSError):
                _READ[sock] = _READ.get(sock, 0) + len(sock.recv(1))


_READ: dict[socket.socket, int] = {}


async def _stopped(task: "asyncio.Future[None]") -> list[int]:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    read = list(_READ.values())
    _READ.clear()
    return read or [0]


async def _finished(on: Stage, count: int) -> float:
    """Seconds until so many answers to slow readers were said to their end."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + 30:
        seen = [one for one in book.read([on["local"]]) if one.model.startswith("slow")]
        if sum(one.end == "served" for one in seen) >= count:
            break
        await asyncio.sleep(0.5)
    return loop.time() - began


async def _all_reset(
    on: Stage, sockets: list[socket.socket], most: float
) -> tuple[float, float | None]:
    """When the last one took no more bytes, and seconds from then until all were reset."""
    loop = asyncio.get_running_loop()
    poll, began, left = select.poll(), loop.time(), len(sockets)
    peers = {f"{sock.getsockname()[1]:04X}" for sock in sockets}
    stalled, most_memory = time.time(), on.side.rss
    before: dict[str, int] = {}
    for sock in sockets:
        poll.register(sock, 0)
    while left and loop.time() < began + most:
        queued, memory = _queued(on.side.port, peers), on.side.rss
        # A queue that is gone was reset. Behind the system's buffers ours fill.
        grown = any(size > before.get(peer, 0) for peer, size in queued.items())
        if grown or memory > most_memory + MIB:
            stalled, most_memory = time.time(), max(memory, most_memory)
        before = queued
        for number, _ in poll.poll(0):
            poll.unregister(number)
            left -= 1
        await asyncio.sleep(0.05)
    return stalled, None if left else time.time() - stalled


def _queued(port: int, peers: set[str]) -> dict[str, int]:
    """Bytes that the system holds of what was sent to each of these ports from `port`."""
    found = {}
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _, ours, theirs, _, queues, *_ = line.split()
        peer = theirs.rpartition(":")[2]
        if ours.endswith(f":{port:04X}") and peer in peers:
            found[peer] = int(queues.partition(":")[0], 16)
    return found


# ---------------------------------------------------------------- C17

#: options of slowhttptest; seconds until all are closed; what is asked
ATTACKS = {
    "H": (["-H", "-i", "1"], 15.0, "/api/version"),
    "B": (["-B", "-i", "1", "-s", "8192", "-t", "POST"], 40.0, "/api/chat"),
    # Its answers fit into the system's buffers: to us these are idle connections.
    "X": (["-X", "-w", "1", "-y", "1", "-n", "5", "-z", "1"], 180.0, "/api/tags"),
}
SLEEPERS = 1000
#: the least that a connection may take for a segment: the system then buffers little
SEGMENT = 536


@pytest.mark.chaos
@pytest.mark.alone
async def test_c17_slowloris_in_three_forms(run: Run, tmp_path: Path) -> None:
    if not shutil.which("slowhttptest"):
        pytest.skip("slowhttptest is not installed")
    run.divide(full=2, short=5)
    run.note = (
        "slowhttptest, 1,000 connections of each form; healthy requests take 60 ms each. Its -X is "
        "given answers that fit into the system's buffers, so 1,000 sockets of our own ask for "
        "streams that do not, and read nothing; a fake of their own fills these buffers, for it "
        "looks frozen meanwhile. The bar of -B is not divided."
    )
    hosts = {
        "local": host("tiny", token_delay=0.005),
        "r1": host("tiny", token_delay=0.005),
        "r2": host("asleep", num_parallel=2000),
    }
    async with stage(run, tmp_path, hosts) as on:
        said = {"route": "/api/chat", "model": "asleep", "say": LONG_WORD * 8, "repeat": 400}
        await on["r2"].tell({**said, "times": 0, "token_delay": 0})
        await on.client.keep(4, 50)
        await on.client.done()
        usual = percentile((one.took for one in on.client.told), 0.99)
        run.seen("usual p99", usual * 1000, "ms")
        for form, (options, most, target) in ATTACKS.items():
            async with _healthy(on, form, usual):
                peak, closed = await _attack(on, options, target)
            run.least(f"{form}: connections at a time", peak, 500)
            # The 10 s over which the rate of a body is measured are not divided.
            limit = most if form != "B" else most * run.factor
            run.within(f"{form}: all closed after the last was opened", closed, limit)
        async with _healthy(on, "sleeping readers", usual):
            run.within("sleeping readers: all closed", await _sleepers(on, SLEEPERS), 75)
        run.none("healthy requests that failed", on.client.failed())
        lines = len(on.side.written().splitlines()) - len(on.client.told)
        run.seen("lines of log beside those of requests", lines)


@contextlib.asynccontextmanager
async def _healthy(on: Stage, form: str, usual: float) -> AsyncIterator[None]:
    """Healthy requests while the block runs, held to twice what they usually take."""
    at = len(on.client.told)
    async with on.client.traffic(50):
        yield
    p99 = percentile((one.took for one in on.client.told[at:]), 0.99)
    on.run.timed(f"{form}: p99 of healthy requests", p99 * 1000, 2 * usual * 1000, "ms")


async def _sleepers(on: Stage, count: int) -> float | None:
    """Seconds until so many readers that sleep were reset, from when the last had asked."""
    with contextlib.ExitStack() as open_:
        made = []
        for number in range(count):
            sock = reader(on.side.port, "asleep", segment=SEGMENT)
            made.append(open_.enter_context(contextlib.closing(sock)))
            if number % 10 == 0:
                await asyncio.sleep(0.02)
        began = time.time()
        _, took = await _all_reset(on, made, 150 / on.run.factor)
        return took and time.time() - began


async def _attack(on: Stage, options: list[str], target: str) -> tuple[int, float | None]:
    """The most connections at a time, and seconds from that until they were closed."""
    files = on.side.open_files
    loop = asyncio.get_running_loop()
    command = ["slowhttptest", "-c", "1000", "-r", "1000", "-l", "45", *options]
    process = await asyncio.create_subprocess_exec(
        *(*command, "-u", f"http://127.0.0.1:{on.side.port}{target}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    peak, opened, began = 0, loop.time(), loop.time()
    try:
        while loop.time() < began + 60:
            there = on.side.open_files - files
            if there > peak:
                peak, opened = there, loop.time()
            # Those of healthy requests come and go.
            if peak > 100 and there < 60:
                return peak, loop.time() - opened
            await asyncio.sleep(0.05)
        return peak, None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# ---------------------------------------------------------------- C18


@contextlib.contextmanager
def many_files(count: int) -> Iterator[int]:
    """As many open files as this process may have, up to so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, count)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    try:
        yield max(soft, most)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.chaos
@pytest.mark.alone
async def test_c18_ten_thousand_idle_connections_and_500_at_work(run: Run, tmp_path: Path) -> None:
    with many_files(24_000) as files, contextlib.ExitStack() as open_:
        # A sidecar takes no more connections than half of the files that it may open.
        idle = min(10_000, (files - 256) // 2 - 700)
        run.note = f"{idle} connections, each after one request; then 500 streams at a time."
        hosts = {name: host(num_parallel=1000, token_delay=0.2) for name in ("local", "r1")}
        async with stage(run, tmp_path, hosts) as on:
            base = on.side.rss
            ask = b"GET /api/distributed/ping HTTP/1.1\r\n" + HOST + b"\r\n"
            made = []
            for number in range(idle):
                sock = open_.enter_context(contextlib.closing(socket.socket()))
                sock.connect(("127.0.0.1", on.side.port))
                sock.sendall(ask)
                made.append(sock)
                if number % 50 == 0:
                    await asyncio.sleep(0.01)
            answered = sum(sock.recv(1) == b"H" for sock in made)
            run.least("idle connections answered", answered, idle)
            await on.client.keep(2, 250, STREAMS)
            peak = await _peak(on)
            await on.client.done()
            alive = sum(_open(sock) for sock in made)
            run.least("idle connections still open", alive, idle)
            run.none("active ones that failed", on.client.failed())
            run.least("active at a time", peak[1], 450)
            run.most("memory", (peak[0] - base) / MIB, 120, "MiB")
            await _h2load(run, on)


async def _peak(on: Stage) -> tuple[int, int]:
    """Most memory, and most open clients, until they are done."""
    memory, clients = 0, 0
    while on.client.open:
        memory, clients = max(memory, on.side.rss), max(clients, on.client.open)
        await asyncio.sleep(0.05)
    return memory, clients


def _open(sock: socket.socket) -> bool:
    """Whether a connection is open; what it still has to be read is dropped."""
    sock.setblocking(False)
    try:
        while data := sock.recv(65536):
            del data
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


async def _h2load(run: Run, on: Stage) -> None:
    """500 connections of another program, beside the idle ones."""
    if not shutil.which("h2load"):
        return
    body = on.folder / "body"
    body.write_text(json.dumps({"model": "tiny", "prompt": "hi", "stream": False}))
    count = 1000
    process = await asyncio.create_subprocess_exec(
        *("h2load", "--h1", "-n", str(count), "-c", "500", "-d", str(body)),
        f"http://127.0.0.1:{on.side.port}/api/generate",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(60):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    run.must(f"h2load: {count} of {count} with 2xx", b"%d 2xx" % count in told)
