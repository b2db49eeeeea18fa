"""The command as a process: what it says at start, what it refuses, and how it ends."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollama_wrap.testing import FakeOllama
from tests.fakes.raw_http import RawReply, fetch, read_reply, request_bytes
from tests.wire.process import NOBODY, PATIENCE, Process, Start

CHAT = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}).encode()

# The process chooses its own loop; which one the test runs on is all the same.
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
    pytest.mark.asyncio(loop_factories=["asyncio"]),
]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


async def chat(port: int) -> RawReply:
    return await fetch(port, request_bytes("POST", "/api/chat", CHAT), PATIENCE)


@contextlib.asynccontextmanager
async def begun(port: int) -> AsyncIterator[asyncio.Task[RawReply]]:
    """A streamed chat whose first byte is here."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request_bytes("POST", "/api/chat", CHAT))
        async with asyncio.timeout(PATIENCE):
            while not reader._buffer:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)
        rest = asyncio.create_task(read_reply(reader, "POST"))
        yield rest
        await rest
    finally:
        writer.close()


# ---------------------------------------------------------------- what it says


async def test_start_line_names_the_listener_the_ollama_the_mode_and_the_nodes(
    start: Start,
) -> None:
    async with (
        FakeOllama(("tiny",), version="0.24.0") as fake,
        FakeOllama(("big",)) as tower,
        start(OLLAMA_LOCAL_ADDR=fake.url, OLLAMA_WRAP_NODES=f"tower={tower.url}") as wrap,
    ):
        line = await wrap.starts()

        assert f"Ollama 0.24.0 at {fake.url}" in line
        assert "mode distributed (other nodes are set)" in line
        assert line.endswith("nodes: tower up")
        assert (await chat(wrap.port)).status == 200


async def test_missing_ollama_is_said_with_a_way_to_see_it_work(start: Start) -> None:
    async with start("serve") as wrap:
        line = await wrap.starts()
        said = await wrap.says("no Ollama answers")

        assert f"no Ollama at {NOBODY}, mode local (no other node is set), nodes: none" in line
        assert "make demo" in said.string
        assert (await fetch(wrap.port, request_bytes("GET", "/health/live"))).status == 200


async def test_settings_come_from_the_named_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "its.env").write_text("OLLAMA_STANDALONE=true\n")

    async with start("--env-file", "its.env") as wrap:
        assert "mode standalone (OLLAMA_STANDALONE is true)" in await wrap.starts()


async def test_every_address_of_a_name_is_listened_on(start: Start) -> None:
    async with start(OLLAMA_WRAP_LISTEN="localhost:0") as wrap:
        await wrap.starts()

        found = {str(one[4][0]) for one in socket.getaddrinfo("localhost", 0)}
        for address in found:
            if address == "::1" and not ipv6():
                continue
            _, writer = await asyncio.open_connection(address, wrap.port)
            writer.close()


def ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- what it refuses


async def test_port_of_an_ollama_is_left_to_it_with_the_lines_that_move_it(start: Start) -> None:
    async with (
        FakeOllama(("tiny",), version="0.24.0") as fake,
        start(
            OLLAMA_WRAP_LISTEN=f"127.0.0.1:{fake.port}", OLLAMA_LOCAL_ADDR="127.0.0.1:11999"
        ) as wrap,
    ):
        code = await wrap.ends()

        assert code == 69
        assert f"cannot listen on 127.0.0.1:{fake.port}: there is Ollama 0.24.0" in wrap.written
        assert "OLLAMA_HOST=127.0.0.1:11999" in wrap.written
        assert "Traceback" not in wrap.written


async def test_ollama_of_this_machine_is_not_moved_to_the_port_of_another_machine(
    start: Start,
) -> None:
    async with (
        FakeOllama(("tiny",)) as fake,
        start(
            OLLAMA_WRAP_LISTEN=f"127.0.0.1:{fake.port}", OLLAMA_LOCAL_ADDR="http://192.0.2.1:11999"
        ) as wrap,
    ):
        assert await wrap.ends() == 69
        assert "OLLAMA_HOST=127.0.0.1:11436" in wrap.written


async def test_port_of_another_sidecar_is_left_to_it(start: Start, tmp_path: Path) -> None:
    async with start() as first:
        await first.starts()
        own = str(tmp_path / "other")
        taken = f"127.0.0.1:{first.port}"

        async with start(OLLAMA_WRAP_LISTEN=taken, OLLAMA_WRAP_STATE_DIR=own) as second:
            assert await second.ends() == 69
            assert "there is another ollama-wrap" in second.written


async def test_port_of_something_else_is_left_to_it(start: Start) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server, start(OLLAMA_WRAP_LISTEN=f"127.0.0.1:{port_of(server)}") as wrap:
        assert await wrap.ends() == 69
        assert "something that does not speak HTTP" in wrap.written


async def test_address_of_another_machine_is_refused_in_a_sentence(start: Start) -> None:
    async with start(OLLAMA_WRAP_LISTEN="192.0.2.1:0") as wrap:
        assert await wrap.ends() == 69
        assert "no interface of this machine has that address" in wrap.written


async def test_state_folder_in_use_is_refused_with_who_uses_it(start: Start) -> None:
    async with start() as first, start() as second:
        codes = {await one.ends() for one in (first, second) if await folder_refused(one)}

    assert codes == {69}


async def folder_refused(wrap: Process) -> bool:
    found = await wrap.says("is in use by process|on http://")
    return found[0].startswith("is in use")


async def test_local_address_that_leads_back_here_ends_the_start(start: Start) -> None:
    """S31."""
    port = free_port()
    async with (
        forwarded_to(port) as back,
        start(
            OLLAMA_WRAP_LISTEN=f"127.0.0.1:{port}", OLLAMA_LOCAL_ADDR=f"http://127.0.0.1:{back}"
        ) as wrap,
    ):
        assert await wrap.ends() == 78
        assert "leads to this sidecar itself" in wrap.written


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def forwarded_to(port: int) -> AsyncIterator[int]:
    """A port whose connections all lead to `port`."""
    writers: list[asyncio.StreamWriter] = []
    pumps: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                writer.write(piece)
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        writers.append(back)
        pumps.append(asyncio.create_task(pump(reader, back)))
        pumps.append(asyncio.create_task(pump(there, writer)))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with server:
        yield port_of(server)
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*pumps)


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_it_with_zero_and_without_a_traceback(start: Start, number: int) -> None:
    async with start() as wrap:
        await wrap.starts()

        wrap.send(number)

        assert await wrap.ends() == 0
        assert "Traceback" not in wrap.written
        assert "stopped" in wrap.written


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_answer_that_has_begun_is_finished_while_nothing_new_is_taken(
    start: Start, number: int
) -> None:
    async with FakeOllama(token_delay=0.2) as fake, start(OLLAMA_LOCAL_ADDR=fake.url) as wrap:
        await wrap.starts()
        idle, writer = await asyncio.open_connection("127.0.0.1", wrap.port)

        async with begun(wrap.port) as answer:
            wrap.send(number)
            async with asyncio.timeout(1):
                assert await idle.read() == b""
            with pytest.raises(OSError, match=r"refused|Connect call failed"):
                await asyncio.open_connection("127.0.0.1", wrap.port)

            assert (await answer).clean_end
        assert await wrap.ends() == 0
        writer.close()


async def test_answer_that_takes_too_long_is_ended_visibly_broken(start: Start) -> None:
    async with (
        FakeOllama(token_delay=1) as fake,
        FakeOllama(("big",)) as tower,
        start(
            OLLAMA_LOCAL_ADDR=fake.url,
            OLLAMA_WRAP_NODES=f"tower={tower.url}",
            OLLAMA_WRAP_SERVER_DRAIN="300ms",
        ) as wrap,
    ):
        await wrap.starts()

        async with begun(wrap.port) as answer:
            wrap.send(signal.SIGTERM)
            reply = await answer

        assert not reply.clean_end
        assert b'{"error":"stream interrupted' in b"".join(reply.chunks)
        assert await wrap.ends() == 0


async def test_second_signal_ends_it_at_once(start: Start) -> None:
    async with FakeOllama(token_delay=2) as fake, start(OLLAMA_LOCAL_ADDR=fake.url) as wrap:
        await wrap.starts()

        async with begun(wrap.port) as answer:
            wrap.send(signal.SIGINT)
            await wrap.says("stopping when the open calls have ended")
            wrap.send(signal.SIGINT)

            assert not (await answer).clean_end
        assert await wrap.ends() == 0


async def test_readiness_is_withdrawn_while_other_sidecars_still_send(start: Start) -> None:
    async with start(OLLAMA_WRAP_SERVER_LAME_DUCK="1s") as wrap:
        await wrap.starts()
        await fetch(wrap.port, request_bytes("GET", "/api/distributed/ping"))
        before = await fetch(wrap.port, request_bytes("GET", "/health/ready"))

        wrap.send(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            while (await fetch(wrap.port, request_bytes("GET", "/health/ready"))).status == 200:
                await asyncio.sleep(0.01)
        ping = await fetch(wrap.port, request_bytes("GET", "/api/distributed/ping"))

        assert before.status == 200
        assert json.loads(ping.body or b"".join(ping.chunks))["drain"] is True
        assert await wrap.ends() == 0
