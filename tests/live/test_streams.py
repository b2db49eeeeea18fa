"""Streams that are long, many at once, read slowly or left: as with stock, in both modes."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ollama
import pytest

from tests.live.cases import odd, play
from tests.live.cases.base import Case, ask, send
from tests.live.compare import differences, steady
from tests.live.exchange import PATIENCE, Line, Script, converse
from tests.live.programs import SENTENCE, Program, seed, start_ollama, start_sidecar
from tests.live.tiny_gguf import write_loop_model

pytestmark = pytest.mark.live

TOKENS = 5000
LOOP = "on and then it goes around as wheels do"
LIMITED = {"num_predict": TOKENS, "num_ctx": 8192}
HI = [{"role": "user", "content": "hi"}]
LONG: dict[str, dict[str, object]] = {
    "/api/generate": {"prompt": "hi", "options": LIMITED},
    "/api/chat": {"messages": HI, "options": LIMITED},
    "/v1/chat/completions": {"messages": HI, "max_tokens": TOKENS, "stream": True},
    "/v1/completions": {"prompt": "hi", "max_tokens": TOKENS, "stream": True},
    "/v1/messages": {"messages": HI, "max_tokens": TOKENS, "stream": True},
    "/v1/responses": {"input": "hi", "max_output_tokens": TOKENS, "stream": True},
}
SOON = 20.0


@dataclass(frozen=True, slots=True)
class House:
    """A daemon, and the doors to it by name: the daemon itself, a sidecar in each mode."""

    direct: Program
    doors: dict[str, Program]


@pytest.fixture(scope="module")
def house(ollama_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("streams")
    started: list[Program] = []
    try:
        here = start_ollama(ollama_binary, folder / "here", OLLAMA_NUM_PARALLEL="1")
        started.append(here)
        there = start_ollama(ollama_binary, folder / "there")
        started.append(there)
        seed(here, folder, SENTENCE, "tiny", embedder="embedder")
        _seed_loop(here, folder)
        seed(there, folder, "Only of the other node.", "far")
        alone = start_sidecar(here, folder / "local")
        started.append(alone)
        nodes = f"b={there.url}"
        among = start_sidecar(here, folder / "distributed", OLLAMA_WRAP_NODES=nodes)
        started.append(among)
        _eventually(lambda: b"far:latest" in converse(among.address, LIST).answers[0].body)
        yield House(here, {"local": alone, "distributed": among})
    finally:
        for program in reversed(started):
            program.stop()


LIST = ask("GET", "/api/tags")
DOORS = ("local", "distributed")


@pytest.mark.parametrize("target", LONG)
@pytest.mark.parametrize("door", DOORS)
def test_stream_of_thousands_of_tokens_comes_chunk_by_chunk(
    house: House, door: str, target: str
) -> None:
    asked = send(target, LONG[target] | {"model": "loop"})

    direct = converse(house.direct.address, asked)
    through = converse(house.doors[door].address, asked)

    assert len(direct.answers[0].chunks) > TOKENS
    assert differences(direct, through) == []


@pytest.mark.parametrize("door", DOORS)
def test_slow_reader_gets_every_byte(house: House, door: str) -> None:
    asked = send("/api/generate", LONG["/api/generate"] | {"model": "loop"})

    direct = converse(house.direct.address, asked).answers[0]
    body = _read_slowly(house.doors[door], asked)

    assert steady(body) == steady(direct.body)


@pytest.mark.parametrize("door", DOORS)
def test_many_streams_of_one_model_take_turns(house: House, door: str) -> None:
    """One at a time: the others wait in stock, as they do without the sidecar."""
    asked = send("/api/chat", {"model": "tiny", "messages": HI})
    alone = converse(house.direct.address, asked)

    with ThreadPoolExecutor(24) as threads:
        jobs = [threads.submit(converse, house.doors[door].address, asked) for _ in range(24)]
        through = [job.result(PATIENCE) for job in jobs]

    assert [found for one in through if (found := differences(alone, one))] == []


@pytest.mark.parametrize("door", DOORS)
def test_requests_of_all_sorts_at_once_do_not_mix(house: House, door: str) -> None:
    cases = [case for case in odd.CASES if _fits(case, door)]
    alone = [play(house.direct.address, case) for case in cases]

    with ThreadPoolExecutor(8) as threads:
        address = house.doors[door].address
        through = list(threads.map(lambda case: play(address, case), cases))

    assert len(cases) > 30
    assert [
        (case.name, found)
        for case, one, other in zip(cases, alone, through, strict=True)
        if (found := differences(one, other))
    ] == []


@pytest.mark.parametrize("door", DOORS)
def test_model_is_free_at_once_when_clients_leave_in_mid_stream(house: House, door: str) -> None:
    asked = send("/api/generate", LONG["/api/generate"] | {"model": "loop"})
    short = send("/api/generate", {"model": "loop", "prompt": "hi", "options": {"num_predict": 3}})
    alone = converse(house.direct.address, short)
    started = time.monotonic()
    whole = converse(house.direct.address, asked)
    taken = time.monotonic() - started

    for _ in range(20):
        _leave_early(house.doors[door], asked)
    started = time.monotonic()
    through = converse(house.doors[door].address, short)

    assert time.monotonic() - started < max(2.0, taken)
    assert differences(alone, through) == []
    assert len(whole.answers[0].chunks) > TOKENS
    _eventually(lambda: _in_flight(house.doors[door]) == 0)


def _seed_loop(daemon: Program, folder: Path) -> None:
    file = folder / "loop.gguf"
    write_loop_model(file, LOOP, -(-TOKENS // len(LOOP.split())) + 1)
    with ollama.Client(host=daemon.url) as client:
        files = {"loop.gguf": client.create_blob(file)}
        client.create(model="loop", files=files, template="{{ .Prompt }}", parameters=LIMITED)


def _fits(case: Case, door: str) -> bool:
    """Whether what it asks for changes nothing, and is the same in each mode."""
    lists = b"/api/tags", b"/v1/models", b"/api/version"
    mutated = case.name[4:6].isdigit()
    return mutated and (door == "local" or not any(one in case.script.sent for one in lists))


def _read_slowly(door: Program, asked: Script) -> bytes:
    """Read a chunked body in small bites from a socket with a small buffer."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(door.address)
        sock.sendall(asked.sent)
        time.sleep(1)
        line = Line(_Sips(sock))
        line.until(b"\r\n\r\n")
        body = b""
        while size := int(line.until(b"\r\n"), 16):
            body += line.take(size)
            line.take(2)
        return body


class _Sips(socket.socket):
    """A socket that is read a little at a time, with pauses."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(fileno=sock.detach())
        self.settimeout(PATIENCE)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        time.sleep(0.001)
        return super().recv(min(size, 600), flags)


def _leave_early(door: Program, asked: Script) -> None:
    with socket.create_connection(door.address, timeout=PATIENCE) as sock:
        sock.sendall(asked.sent)
        line = Line(sock)
        assert line.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        line.until(b"\n")


def _in_flight(door: Program) -> int:
    status = converse(door.address, ask("GET", "/api/distributed/status")).answers[0]
    number: int = json.loads(status.body)["scheduler_stats"]["in_flight"]
    return number


def _eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not holds():
        if time.monotonic() > end:
            pytest.fail("it did not come true in time")
        time.sleep(0.1)
