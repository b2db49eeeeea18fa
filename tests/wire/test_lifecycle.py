"""A process that is told other settings, is passed its sockets, and is stopped under load."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from ollama_wrap.testing import FakeOllama
from tests.fakes.raw_http import RawReply, fetch, read_reply, request_bytes
from tests.wire.process import PATIENCE, Process, Start, sidecar_process

TOKEN = "a token that is long enough to be a good one"
CLOSE = ("Connection", "close")
#: becomes the command with its files as a supervisor passes them: 3, 4, … and who they are for
PASSING = """
import os, sys
files, command = sys.argv[1].split(","), sys.argv[2:]
for number in [os.dup2(os.dup(int(one)), 50 + at) for at, one in enumerate(files)]:
    os.dup2(number, number - 47, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(files))}
os.execv(command[0], command)
"""

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
    pytest.mark.asyncio(loop_factories=["asyncio"]),
]


def chat_request(model: str = "tiny", *, stream: bool = True) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    return request_bytes("POST", "/api/chat", json.dumps(body).encode(), [CLOSE])


async def chat(port: int, model: str = "tiny", *, stream: bool = False) -> RawReply:
    return await fetch(port, chat_request(model, stream=stream), PATIENCE)


class Load:
    """Clients that ask one after the other, each on a connection of its own."""

    def __init__(self, port: int, clients: int) -> None:
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self._port = port
        self._go_on = True
        self._clients = [asyncio.create_task(self._ask(n % 2 == 0)) for n in range(clients)]

    async def _ask(self, stream: bool) -> None:
        while self._go_on:
            try:
                reply = await chat(self._port, stream=stream)
            except (OSError, EOFError, TimeoutError) as error:
                self.failures.append(repr(error))
            else:
                self.statuses.append(reply.status if reply.clean_end else 0)
            await asyncio.sleep(0.005)

    async def answered(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.statuses) < count and not self.failures:
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        self._go_on = False
        await asyncio.gather(*self._clients)


# ---------------------------------------------------------------- reload


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    return tmp_path / "config" / "node.yaml"


async def test_hangup_reads_the_files_anew_and_the_environment_still_wins(
    start: Start, config: Path
) -> None:
    async with (
        FakeOllama(("tiny",)) as fake,
        FakeOllama(("big",)) as tower,
        start(OLLAMA_LOCAL_ADDR=fake.url, OLLAMA_WRAP_CACHE_TTL="7s") as wrap,
    ):
        await wrap.starts()
        before = await chat(wrap.port, "big")
        config.write_text(f"nodes: tower={tower.url}\ncache: {{ttl: 9s, max_entry: 1KiB}}\n")
        wrap.send(signal.SIGHUP)
        said = await wrap.says("settings reloaded")
        async with asyncio.timeout(PATIENCE):
            while (after := await chat(wrap.port, "big")).status != 200:
                await asyncio.sleep(0.02)

        assert before.status == 404
        assert after.status == 200
        assert 'changed="nodes, cache.max_entry"' in said.string


async def test_hangup_with_files_that_cannot_be_used_changes_nothing_and_says_why(
    start: Start, config: Path
) -> None:
    async with FakeOllama(("tiny",)) as fake, start(OLLAMA_LOCAL_ADDR=fake.url) as wrap:
        await wrap.starts()
        config.write_text("cache: {ttl: never}\nretry: {attempts: 0}\nadmin_token: [x]\n")

        wrap.send(signal.SIGHUP)
        said = (await wrap.says("settings are not reloaded")).string

        assert "cache.ttl" in said
        assert "retry.attempts" in said
        assert (await chat(wrap.port)).status == 200


async def test_listener_that_changes_waits_for_a_restart_and_is_named(
    start: Start, config: Path
) -> None:
    config.write_text("server: {listen: 127.0.0.1:0}\n")
    async with (
        FakeOllama(("tiny",)) as fake,
        start(OLLAMA_LOCAL_ADDR=fake.url, OLLAMA_WRAP_LISTEN="", OLLAMA_ADMIN_TOKEN=TOKEN) as wrap,
    ):
        await wrap.starts()
        config.write_text("server: {listen: 127.0.0.1:1, drain: 5s}\n")
        bearer = [("Authorization", f"Bearer {TOKEN}"), CLOSE]
        reply = await fetch(wrap.port, request_bytes("POST", "/admin/reload", b"", bearer))

        assert json.loads(reply.body)["restart"] == ["server.listen"]
        assert json.loads(reply.body)["changed"] == ["server.drain"]
        await wrap.says("wait for a restart.*server.listen")
        assert (await chat(wrap.port)).status == 200


async def test_key_in_a_file_of_its_own_is_read_anew(start: Start, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    async with start(OLLAMA_ADMIN_TOKEN_FILE=str(token)) as wrap:
        await wrap.starts()
        token.write_text("another one that is long enough, too")
        wrap.send(signal.SIGHUP)
        await wrap.says("settings reloaded")

        stats = request_bytes("GET", "/admin/stats", b"", [("Authorization", f"Bearer {TOKEN}")])
        assert (await fetch(wrap.port, stats)).status == 401


# ---------------------------------------------------------------- sockets that were passed


@contextlib.contextmanager
def listening(count: int = 1, address: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    sockets = [socket.create_server((address, 0), backlog=1024) for _ in range(count)]
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


@contextlib.asynccontextmanager
async def passed(
    folder: Path, sockets: list[socket.socket], **settings: str
) -> AsyncIterator[Process]:
    """The command as a supervisor starts it that listens already."""
    files = [one.fileno() for one in sockets]
    numbers = ",".join(map(str, files))
    under = (sys.executable, "-c", PASSING, numbers)
    settings = {"OLLAMA_WRAP_LISTEN": "127.0.0.1:1", **settings}
    async with sidecar_process(folder, (), settings, under, files) as made:
        yield made


async def test_sockets_that_were_passed_are_served_on_and_no_others(tmp_path: Path) -> None:
    with listening(2) as sockets:
        ports = [one.getsockname()[1] for one in sockets]
        async with (
            FakeOllama(("tiny",)) as fake,
            passed(tmp_path, sockets, OLLAMA_LOCAL_ADDR=fake.url) as wrap,
        ):
            line = await wrap.starts()

            assert line.split(", Ollama")[0].endswith(
                f"on http://127.0.0.1:{ports[0]}, http://127.0.0.1:{ports[1]}"
            )
            assert [(await chat(port)).status for port in ports] == [200, 200]


async def test_state_folder_follows_the_port_of_the_passed_socket(tmp_path: Path) -> None:
    with listening() as sockets:
        home = {"HOME": str(tmp_path), "XDG_STATE_HOME": "", "OLLAMA_WRAP_STATE_DIR": ""}
        async with passed(tmp_path, sockets, **home) as wrap:
            await wrap.starts()

            assert list(tmp_path.rglob(f"{sockets[0].getsockname()[1]}/state.db"))


async def test_what_is_passed_and_is_no_listener_ends_the_start_with_69(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        async with passed(tmp_path, [other]) as wrap:
            assert await wrap.ends() == 69
            assert "the passed file 3" in wrap.written
            assert "Traceback" not in wrap.written


async def test_files_that_were_passed_to_another_process_are_left_alone(start: Start) -> None:
    async with start(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2") as wrap:
        await wrap.starts()

        assert wrap.port


async def test_call_that_came_before_the_start_is_answered_after_it(tmp_path: Path) -> None:
    with listening() as sockets:
        port = sockets[0].getsockname()[1]
        early = asyncio.create_task(chat(port))
        await asyncio.sleep(0.05)
        async with (
            FakeOllama(("tiny",)) as fake,
            passed(tmp_path, sockets, OLLAMA_LOCAL_ADDR=fake.url) as wrap,
        ):
            await wrap.starts()

            assert (await early).status == 200


async def test_restart_under_load_refuses_nobody(tmp_path: Path) -> None:
    with listening() as sockets:
        async with FakeOllama(("tiny",), token_delay=0.001) as fake:
            load = Load(sockets[0].getsockname()[1], clients=20)
            for turn in range(3):
                async with passed(tmp_path, sockets, OLLAMA_LOCAL_ADDR=fake.url) as wrap:
                    await wrap.starts()
                    await load.answered(100 * (turn + 1))
                    wrap.send(signal.SIGTERM)
                    assert await wrap.ends() == 0
            async with passed(tmp_path, sockets, OLLAMA_LOCAL_ADDR=fake.url) as wrap:
                await load.end()
                await wrap.starts()

            assert load.failures == []
            assert set(load.statuses) == {200}


# ---------------------------------------------------------------- the end


async def test_client_that_has_just_come_in_is_answered_before_the_end(start: Start) -> None:
    async with FakeOllama(("tiny",)) as fake, start(OLLAMA_LOCAL_ADDR=fake.url) as wrap:
        await wrap.starts()
        reader, writer = await asyncio.open_connection("127.0.0.1", wrap.port)
        halfway, half = await asyncio.open_connection("127.0.0.1", wrap.port)
        request = chat_request(stream=False)
        half.write(request[:40])
        await asyncio.sleep(0.05)

        wrap.send(signal.SIGTERM)
        await asyncio.sleep(0.1)
        writer.write(request)
        half.write(request[40:])

        assert (await read_reply(reader, "POST")).status == 200
        assert (await read_reply(halfway, "POST")).status == 200
        assert await wrap.ends() == 0
        writer.close()
        half.close()


async def test_client_that_reads_slowly_gets_all_of_an_answer_that_was_ready(
    start: Start,
) -> None:
    async with (
        FakeOllama(("tiny",)) as fake,
        start(OLLAMA_LOCAL_ADDR=fake.url, OLLAMA_WRAP_SERVER_DRAIN="10s") as wrap,
    ):
        size = 900_000
        fake.on(route="/api/chat", status=200, body="x" * size, times=0)
        await wrap.starts()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", wrap.port))
        await loop.sock_sendall(sock, chat_request(stream=False))
        await asyncio.sleep(0.3)

        wrap.send(signal.SIGTERM)
        got, end = 0, loop.time() + 1.6
        while piece := await loop.sock_recv(sock, 4096 if loop.time() < end else 65_536):
            got += len(piece)
            if loop.time() < end:
                await asyncio.sleep(0.01)
        sock.close()

        assert got > size
        assert await wrap.ends() == 0


async def test_new_calls_go_to_peers_while_they_are_told_that_we_leave(start: Start) -> None:
    async with (
        FakeOllama(("tiny",)) as fake,
        FakeOllama(("tiny",)) as tower,
        start(
            OLLAMA_LOCAL_ADDR=fake.url,
            OLLAMA_WRAP_NODES=f"tower={tower.url}",
            OLLAMA_WRAP_SERVER_LAME_DUCK="1s",
        ) as wrap,
    ):
        await wrap.starts()
        before = await chat(wrap.port)
        await fetch(wrap.port, request_bytes("GET", "/api/distributed/ping", b"", [CLOSE]))
        wrap.send(signal.SIGTERM)
        ready = request_bytes("GET", "/health/ready", b"", [CLOSE])
        async with asyncio.timeout(PATIENCE):
            while (await fetch(wrap.port, ready)).status == 200:
                await asyncio.sleep(0.01)
        after = await chat(wrap.port)

        assert (before.status, after.status) == (200, 200)
        assert (len(fake.ledger.to("/api/chat")), len(tower.ledger.to("/api/chat"))) == (1, 1)
        assert await wrap.ends() == 0


async def test_interrupt_has_no_lame_duck(start: Start) -> None:
    async with start(OLLAMA_WRAP_SERVER_LAME_DUCK="15s") as wrap:
        await wrap.starts()
        await fetch(wrap.port, request_bytes("GET", "/api/distributed/ping", b"", [CLOSE]))

        wrap.send(signal.SIGINT)
        async with asyncio.timeout(5):
            assert await wrap.ends() == 0


async def test_terminal_that_is_closed_is_an_end_and_no_reload(tmp_path: Path) -> None:
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_wrap"),
        env={
            **os.environ,
            "OLLAMA_WRAP_LISTEN": "127.0.0.1:0",
            "OLLAMA_WRAP_STATE_DIR": str(tmp_path / "state"),
            "OLLAMA_WRAP_CONFIG_DIR": str(tmp_path / "config"),
        },
        cwd=tmp_path,
        stdin=theirs,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    wrap = Process(process, tmp_path)
    try:
        await wrap.starts()
        wrap.send(signal.SIGHUP)
        await wrap.says("settings reloaded")
        os.close(ours)

        assert await wrap.ends() == 0
        assert "stopped" in wrap.written
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await wrap.ends()


# ---------------------------------------------------------------- the start


async def test_calls_wait_until_it_is_known_that_we_do_not_ask_ourselves(start: Start) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    with listening() as sockets:
        port = sockets[0].getsockname()[1]
    async with (
        server,
        start(
            OLLAMA_LOCAL_ADDR=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            OLLAMA_WRAP_LISTEN=f"127.0.0.1:{port}",
        ) as wrap,
    ):
        live = request_bytes("GET", "/health/live", b"", [CLOSE])
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    if (await fetch(port, live)).status == 200:
                        break
                await asyncio.sleep(0.01)
        ready = await fetch(port, request_bytes("GET", "/health/ready", b"", [CLOSE]))

        # Our own routes answer at once; an Ollama that says nothing keeps nobody out for long.
        assert ready.status == 503
        assert "starting" in ready.body.decode()
        await wrap.says("on http://")


# ---------------------------------------------------------------- state


BEARER = [("Authorization", f"Bearer {TOKEN}"), CLOSE]


async def choose(port: int, mode: str) -> RawReply:
    body = json.dumps({"mode": mode}).encode()
    return await fetch(port, request_bytes("POST", "/admin/mode", body, BEARER))


async def chosen(port: int) -> object:
    status = request_bytes("GET", "/api/distributed/status", b"", [CLOSE])
    shape = json.loads((await fetch(port, status)).body)
    return shape["mode"], shape["mode_reason"]


async def test_choice_that_was_acknowledged_outlives_a_kill(start: Start) -> None:
    for mode in ("standalone", "local"):
        async with start(OLLAMA_ADMIN_TOKEN=TOKEN) as wrap:
            await wrap.starts()
            assert (await choose(wrap.port, mode)).status == 200
            wrap.send(signal.SIGKILL)
            await wrap.ends()
        async with start(OLLAMA_ADMIN_TOKEN=TOKEN) as wrap:
            await wrap.starts()

            assert await chosen(wrap.port) == (mode, "admin")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process")
async def test_calls_are_answered_while_the_disk_is_full_and_after_a_start_on_it(
    start: Start,
) -> None:
    import resource

    async with (
        FakeOllama(("tiny",)) as fake,
        FakeOllama(("big",)) as tower,
        contextlib.AsyncExitStack() as stack,
    ):
        nodes = {"OLLAMA_LOCAL_ADDR": fake.url, "OLLAMA_WRAP_NODES": f"tower={tower.url}"}
        wrap = await stack.enter_async_context(start(OLLAMA_ADMIN_TOKEN=TOKEN, **nodes))
        await wrap.starts()
        await choose(wrap.port, "distributed")
        resource.prlimit(wrap.process.pid, resource.RLIMIT_FSIZE, (0, -1))
        refused = await choose(wrap.port, "local")
        served = await chat(wrap.port, "big")
        wrap.send(signal.SIGTERM)
        code = await wrap.ends()

        limited = ("bash", "-c", 'ulimit -S -f 0; exec "$@"', "bash")
        full = {"OLLAMA_ADMIN_TOKEN": TOKEN, **nodes}
        folder = wrap.folder
        again = await stack.enter_async_context(sidecar_process(folder, (), full, limited))
        await again.starts()

        assert (refused.status, json.loads(refused.body)["code"]) == (503, "STATE_UNAVAILABLE")
        assert (served.status, code) == (200, 0)
        assert await chosen(again.port) == ("distributed", "admin")
        assert (await chat(again.port, "big")).status == 200
        assert (await choose(again.port, "local")).status == 503
        resource.prlimit(again.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        assert (await choose(again.port, "local")).status == 200
