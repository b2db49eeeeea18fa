"""The sidecar's own process: frozen, stopped, restarted, starved, reloaded: C26, C27, C30, C32."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos.figures import Run
from tests.chaos.programs import Sidecar, ask
from tests.chaos.stage import Stage, host, stage
from tests.chaos.traffic import STREAMS, WHOLES, Client
from tests.fakes.raw_http import RawReply, read_reply, request_bytes

MIB = 1 << 20
TOKEN = "correct-horse-battery-staple"


# ---------------------------------------------------------------- C26


@pytest.mark.chaos
async def test_c26_whole_host_is_suspended(run: Run, tmp_path: Path) -> None:
    run.divide(full=10, short=20)
    async with stage(run, tmp_path, {"r1": host(), "r2": host()}) as on:
        on.lag_matters = False  # it stood still
        async with on.client.traffic():
            await asyncio.sleep(3)
            leaving = [on.client.start(STREAMS[0]) for _ in range(5)]
            await asyncio.sleep(0.1)
            on.side.freeze()
            on["local"].freeze()
            leaving += [on.client.start(WHOLES[0]) for _ in range(5)]
            await asyncio.sleep(60 / run.factor)
            for task in leaving:
                task.cancel()
            await asyncio.sleep(0.1)
            woke = time.time()
            on["local"].thaw()
            on.side.thaw()
            probed = await _probed(on, woke)
            await asyncio.sleep(5)
        after = [one for one in on.client.told if one.began >= woke]
        # What the other hosts had begun before they could go on with.
        served = {one.mark for one in on.inferred() if one.end == "served" and one.came > woke}
        left = [one for one in on.client.told if one.error == "left"]

        run.within("every node was probed again", probed, 20)
        run.none("failed afterwards", [one for one in after if not one.good])
        run.none("failed of those that waited meanwhile", on.client.failed())
        run.none("answers to clients that had left", [o for o in left if o.mark in served])


async def _probed(on: Stage, woke: float) -> float | None:
    """Seconds until each node has answered a probe since the wall time `woke`."""
    while time.time() < woke + 10:
        nodes = await on.side.nodes()
        if all((one["last_seen"] or "") > _stamp(woke) for one in nodes.values()):
            return time.time() - woke
        await asyncio.sleep(0.02)
    return None


def _stamp(wall: float) -> str:
    whole, part = divmod(wall, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int(part * 1000):03d}Z"


# ---------------------------------------------------------------- C27


@pytest.mark.chaos
async def test_c27_sidecar_is_stopped_with_50_streams(run: Run, tmp_path: Path) -> None:
    run.divide(full=10, short=20)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0), backlog=1024)) as sock:
        os.set_inheritable(sock.fileno(), True)
        await _restarted(run, tmp_path / "passed", sock)
    await _restarted(run, tmp_path / "own", None)


async def _restarted(run: Run, folder: Path, sock: socket.socket | None) -> None:
    """Stop it while 50 streams of 5 to 90 s run, and start it again; `sock` is passed to it."""
    folder.mkdir()
    what = "own socket" if sock is None else "passed socket"
    names = [f"s{number}" for number in range(10)]
    hosts = {"r1": host(",".join(["tiny", *names]), max_loaded=20), "r2": host()}
    passed = () if sock is None else (sock.fileno(),)
    told = {} if sock is None else {"CHAOS_SOCKET": str(sock.fileno())}
    async with stage(run, folder, hosts, told, passed=passed) as on:
        for number, name in enumerate(names):
            span = (5 + number * 85 / 9) / run.factor
            slow = {"route": "/*", "method": "POST", "model": name, "token_delay": span / 13}
            await on["r1"].tell({**slow, "times": 0})
        streams = [on.client.start(STREAMS[n % 3], names[n % 10]) for n in range(50)]
        steady = Client(lambda: on.side.port)
        async with steady.traffic():
            await asyncio.sleep(0.3)
            stopped = time.time()
            on.side.send(signal.SIGTERM)
            code = await on.side.ended(150 / run.factor)
            ended = time.time()
            on.side.settings = {**on.side.settings, "OLLAMA_WRAP_LISTEN": _address(on.side)}
            on.side.start()
            await on.side.listens()
            again = time.time()
            await asyncio.sleep(2)
        cut = [one for one in (await asyncio.gather(*streams)) if not one.good]
        early = [one for one in steady.failed() if one.began < stopped]
        failed = steady.failed() if sock is not None else early

        run.none(f"{what}: streams cut", cut)
        run.most(f"{what}: exit code", code, 0)
        run.within(f"{what}: stopped", ended - stopped, 95)
        run.none(f"{what}: requests refused or failed", failed)
        run.none(
            f"{what}: failed after the restart", [o for o in steady.failed() if o.began > again]
        )
        run.seen(f"{what}: seconds from stop to start", again - stopped, "s")
        on.client.told += steady.told


def _address(side: Sidecar) -> str:
    return f"127.0.0.1:{side.port}"


# ---------------------------------------------------------------- C30

#: a mount namespace of the sidecar's own, with a small disk for its state, or one for reading
_SMALL = 'mount -t tmpfs -o size=256k none "$0" && exec "$@"'
_READ_ONLY = 'mount -t tmpfs -o ro none "$0" && exec "$@"'


def _mounting(folder: Path) -> str:
    """Why no small disk can be mounted here; "" if it can."""
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return "unshare or nsenter is not installed"
    command = ["unshare", "--mount", "sh", "-c", _SMALL, str(folder), "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"nothing can be mounted: {done.stderr.strip()}"


@pytest.mark.chaos
async def test_c30_disk_files_and_memory_run_out(run: Run, tmp_path: Path) -> None:
    if why := await asyncio.to_thread(_mounting, tmp_path):
        pytest.skip(why)
    for part in (_full_disk, _read_only_disk, _few_files, _little_memory):
        folder = tmp_path / part.__name__
        folder.mkdir()
        await part(run, folder)


async def _full_disk(run: Run, folder: Path) -> None:
    """Full, then not: calls go on, and a choice is a 503 meanwhile that changes nothing."""
    state, settings, under = _disk(folder, _SMALL)
    async with stage(run, folder, {"r1": host()}, settings, under=under) as on:
        inside = ["nsenter", "--mount", "--target", str(on.side.pid)]
        async with on.client.traffic():
            run.must("a choice is taken", (await _choose(on, "standalone")).status == 200)
            await _command(*inside, "dd", "if=/dev/zero", f"of={state}/fill", "bs=4k")
            run.must("full disk: 503 STATE_UNAVAILABLE", _unstored(await _choose(on, "local")))
            stays = (await on.side.status())["mode"]
            run.must("full disk: nothing has changed", stays == "standalone")
            await _command(*inside, "rm", f"{state}/fill")
            await asyncio.sleep(1)
            taken = (await _choose(on, "distributed")).status
            run.must("full disk: taken afterwards", taken == 200)
        run.none("failed while the disk was full", on.client.failed())
        run.must("one process all along", on.side.running)


async def _read_only_disk(run: Run, folder: Path) -> None:
    """It starts all the same, answers, and takes no choice."""
    # What was chosen cannot be read, so no other node is used.
    _, settings, under = _disk(folder, _READ_ONLY)
    async with stage(run, folder, settings=settings, under=under) as on:
        async with on.client.traffic():
            run.must("read-only disk: 503 STATE_UNAVAILABLE", _unstored(await _choose(on, "local")))
            await asyncio.sleep(2)
        run.none("failed while the disk was read-only", on.client.failed())


def _disk(folder: Path, script: str) -> tuple[Path, dict[str, str], tuple[str, ...]]:
    state = folder / "state"
    state.mkdir()
    settings = {"OLLAMA_ADMIN_TOKEN": TOKEN, "OLLAMA_WRAP_STATE_DIR": str(state)}
    return state, settings, ("unshare", "--mount", "sh", "-c", script, str(state))


def _unstored(reply: RawReply) -> bool:
    return reply.status == 503 and b"STATE_UNAVAILABLE" in reply.body


async def _choose(on: Stage, mode: str) -> RawReply:
    body = json.dumps({"mode": mode}).encode()
    request = request_bytes(
        "POST", "/admin/mode", body, [("Authorization", f"Bearer {TOKEN}"), ("Connection", "close")]
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", on.side.port)
    try:
        writer.write(request)
        return await asyncio.wait_for(read_reply(reader, "POST"), 10)
    finally:
        writer.close()


async def _command(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await asyncio.wait_for(process.wait(), 20)


async def _few_files(run: Run, folder: Path) -> None:
    """64 open files, and more clients than that: some are refused, nothing breaks."""
    async with stage(run, folder, {"r1": host()}, files=64) as on:
        async with on.client.traffic(10):
            crowd = Client(lambda: on.side.port)
            for _ in range(150):
                crowd.start(WHOLES[0])
            await crowd.done()
            await asyncio.sleep(2)
        odd = [o for o in crowd.failed() if o.reply.status not in {0, 503}]
        run.none("64 files: answers but 200 and 503", odd)
        run.seen("64 files: served of 150 at once", sum(one.good for one in crowd.told))
        await on.client.done()
        at = len(on.client.told)
        await on.client.keep(5)
        await on.client.done()
        late = [one for one in on.client.told[at:] if not one.good]
        run.none("64 files: failed afterwards", late)
        run.must("64 files: one process all along", on.side.running)
        on.client.told += crowd.told


async def _little_memory(run: Run, folder: Path) -> None:
    """256 MiB, and 40 bodies of 10 MiB at a time: refused with 503, or answered."""
    settings = {"OLLAMA_WRAP_MEMORY_LIMIT": "256MiB"}
    slow = {"route": "/api/chat", "model": "tiny", "prompt_delay": 1.0, "times": 40}
    async with stage(run, folder, {"r1": host()}, settings) as on:
        for node in ("local", "r1"):
            await on[node].tell(slow)
        statuses: list[int] = []
        peak = on.side.rss
        posts = [asyncio.ensure_future(_large(on, statuses)) for _ in range(40)]
        while not all(one.done() for one in posts):
            peak = max(peak, on.side.rss)
            await asyncio.sleep(0.02)
        await asyncio.gather(*posts)
        meta = await ask(("127.0.0.1", on.side.port), "GET", "/api/tags")
        await asyncio.sleep(1)
        await on.client.keep(5)
        await on.client.done()
        run.none("256 MiB: answers but 200 and 503", [s for s in statuses if s not in {200, 503}])
        run.seen("256 MiB: bodies answered", statuses.count(200))
        run.seen("256 MiB: most memory", peak / MIB, "MiB")
        run.most("256 MiB: status of a list", meta.status, 200)
        run.none("256 MiB: failed afterwards", on.client.failed())
        run.must("256 MiB: one process all along", on.side.running)


async def _large(on: Stage, statuses: list[int]) -> None:
    message = {"role": "user", "content": "x" * (10 * MIB)}
    body = json.dumps({"model": "tiny", "stream": False, "messages": [message]}).encode()
    try:
        reply = await asyncio.wait_for(
            ask(("127.0.0.1", on.side.port), "POST", "/api/chat", body), 40
        )
        statuses.append(reply.status)
    except ConnectionError:
        # It was refused before its body was read, and went on writing.
        statuses.append(503)


# ---------------------------------------------------------------- C32


@pytest.mark.chaos
async def test_c32_settings_are_reloaded_a_thousand_times(run: Run, tmp_path: Path) -> None:
    times = 1000 if run.full else 100
    async with stage(run, tmp_path, {"r1": host(), "r2": host()}, listed=False) as on:
        files = _Files(on)
        await files.reload(1)
        await on.ready(["r1", "r2"])
        async with on.client.traffic():
            for number in range(100):
                await files.reload(number)
            base, opened = on.side.rss, on.side.open_files
            tasks = (await on.side.look())["task_count"]
            for number in range(times):
                await files.reload(number)
            grown = on.side.rss - base
        await asyncio.sleep(1)
        # The last one was refused: what holds is the one before.
        weight = (await on.side.nodes())["r1"]["weight"]

        count = times + 101
        taken = await on.side.metrics("reloads_total", result="taken")
        refused = await on.side.metrics("reloads_total", result="refused")
        run.least("reloads", taken + refused, count * 0.98)
        run.least("of these, refused", refused, count * 0.32)
        run.none("failed", on.client.failed())
        run.must("after a refused one the old settings hold", weight == files.weight)
        run.most("files that stay open", on.side.open_files - opened, 5)
        run.most("tasks that stay", (await on.side.look())["task_count"] - tasks, 0)
        run.most("growth of memory", grown / MIB, 5, "MiB")


class _Files:
    """The settings file of a sidecar, written anew for each reload; every third one is wrong."""

    def __init__(self, on: Stage) -> None:
        self._on = on
        self._path = on.side.folder / "tower.config" / "config.yaml"
        self._path.parent.mkdir(exist_ok=True)
        self._done = 0
        self.weight = 0

    async def reload(self, number: int) -> None:
        if number % 3 == 0:
            text = "nodes: [{url: 7, weight: many}]\nretry: {attempts: few}\n"
        else:
            self.weight = 50 + number % 50
            entry = "{{id: {0}, url: '{1}', weight: {2}}}"
            nodes = [entry.format(n, self._on.address(n), self.weight) for n in ("r1", "r2")]
            text = f"nodes: [{', '.join(nodes)}]\n"
        fresh = self._path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self._path)
        self._on.side.send(signal.SIGHUP)
        # Two signals that come at once are one.
        await asyncio.sleep(0.012)
