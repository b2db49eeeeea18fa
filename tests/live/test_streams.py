"""Streams that are long, many at once, read slowly or left: as with stock, in both modes."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import ollama
import pytest

from tests.live.cases import odd, play
from tests.live.cases.base import Case, ask, send
from tests.live.compare import differences, steady
from tests.live.exchange import PATIENCE, Conversation, Line, Script, converse
from tests.live.programs import SENTENCE, Program, seed, start_ollama, start_sidecar
from tests.live.tiny_gguf import write_loop_model

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

TOKENS = 5000
LOOP = "on and then it goes around as wheels do"
# Stock stops at ten times the context.
CONTEXT = 512
HI = [{"role": "user", "content": "hi"}]
LONG: dict[str, tuple[int, dict[str, object]]] = {
    # Its last line, with the context, is longer than what stock writes at a time.
    "/api/generate": (1500, {"prompt": "hi", "options": {"num_predict": 1500}}),
    "/api/chat": (TOKENS, {"messages": HI, "options": {"num_predict": TOKENS}}),
    "/v1/chat/completions": (TOKENS, {"messages": HI, "max_tokens": TOKENS, "stream": True}),
    "/v1/completions": (600, {"prompt": "hi", "max_tokens": 600, "stream": True}),
    "/v1/messages": (600, {"messages": HI, "max_tokens": 600, "stream": True}),
    "/v1/responses": (600, {"input": "hi", "max_output_tokens": 600, "stream": True}),
}
CHAT = send("/api/chat", LONG["/api/chat"][1] | {"model": "loop"})
SOON = 20.0


@dataclass(frozen=True, slots=True)
class House:
    """A daemon, and the doors to it by name: the daemon itself, a sidecar in each mode."""

    direct: Program
    doors: dict[str, Program]
    known: dict[Script, Conversation] = field(default_factory=dict)

    def answered(self, asked: Script) -> Conversation:
        """What stock answers; asked once, for real engines take their time."""
        if asked not in self.known:
            self.known[asked] = converse(self.direct.address, asked)
        return self.known[asked]


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
    tokens, body = LONG[target]
    asked = send(target, body | {"model": "loop"})

    direct = house.answered(asked)
    through = converse(house.doors[door].address, asked)

    assert len(direct.answers[0].chunks) > tokens
    assert {sentence.partition(":")[0] for sentence in differences(direct, through)} == (
        {"headers"} if direct.answers[0].header(b"connection") else set()
    )


@pytest.mark.parametrize("door", DOORS)
def test_slow_reader_gets_every_byte(house: House, door: str) -> None:
    direct = house.answered(CHAT).answers[0]

    body = _read_slowly(house.doors[door], CHAT)

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
    cases = [case for case in odd.CASES if _fits(case)]
    alone = [play(house.direct.address, case) for case in cases]

    with ThreadPoolExecutor(8) as threads:
        address = house.doors[door].address
        through = list(threads.map(lambda case: play(address, case), cases))

    assert len(cases) > 25
    assert [
        (case.name, found)
        for case, one, other in zip(cases, alone, through, strict=True)
        if (found := differences(one, other))
    ] == []


@pytest.mark.parametrize("door", DOORS)
def test_client_that_leaves_in_mid_stream_leaves_nothing_open(house: House, door: str) -> None:
    short = send("/api/generate", {"model": "loop", "prompt": "hi", "options": {"num_predict": 3}})

    through = None
    with contextlib.suppress(TimeoutError):
        for _ in range(3):
            _leave_early(house.doors[door])
        _eventually(lambda: _in_flight(house.doors[door]) == 0)
        through = converse(house.doors[door].address, short)

    try:
        alone = converse(house.direct.address, short)
    except TimeoutError:
        # Stock's own: some clients that leave keep its engine's turn for ever. Seen in 0.24
        # and 0.33 without a sidecar, once in five to fifty.
        pytest.skip("stock does not answer any more after clients have left")
    assert through is not None
    assert differences(alone, through) == []


def _seed_loop(daemon: Program, folder: Path) -> None:
    file = folder / "loop.gguf"
    write_loop_model(file, LOOP, -(-TOKENS // len(LOOP.split())) + 1)
    with ollama.Client(host=daemon.url) as client:
        files = {"loop.gguf": client.create_blob(file)}
        client.create(
            model="loop", files=files, template="{{ .Prompt }}", parameters={"num_ctx": CONTEXT}
        )


def _fits(case: Case) -> bool:
    """Whether it is a single request, and no list: stock's order changes, `nodes` are added."""
    lists = b"/api/tags", b"/v1/models", b"/api/version"
    return case.name[4:6].isdigit() and not any(one in case.script.sent for one in lists)


def _read_slowly(door: Program, asked: Script) -> bytes:
    """Read a chunked body in small bites from a socket with a small buffer."""
    with _Sips() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(door.address)
        sock.sendall(asked.sent)
        time.sleep(1)
        line = Line(sock)
        line.until(b"\r\n\r\n")
        body = b""
        while size := int(line.until(b"\r\n"), 16):
            body += line.take(size)
            line.take(2)
        return body


class _Sips(socket.socket):
    """A socket that is read a little at a time, with pauses."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        time.sleep(0.001)
        return super().recv(min(size, 600), flags)


def _leave_early(door: Program) -> None:
    with socket.create_connection(door.address, timeout=PATIENCE) as sock:
        sock.sendall(CHAT.sent)
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
