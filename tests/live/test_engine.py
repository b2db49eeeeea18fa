"""Engines that fail: not noticed before the first byte, said after it; alone, stock's own end.

Needs an Ollama whose engine is a stand-in that fails on demand: a script at
`../lib/ollama/llama-server` that reads a file of wishes (`STANDIN_CONTROL`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.cases.base import ask, send
from tests.live.compare import differences
from tests.live.exchange import Script, converse
from tests.live.programs import CONTROL, SENTENCE, Program, start_sidecar, twins
from tests.live.test_cluster import eventually, names, said

pytestmark = pytest.mark.live

HI = [{"role": "user", "content": "hi"}]
GENERATE = send("/api/generate", {"model": "tiny", "prompt": "hi"})
CHAT = send("/api/chat", {"model": "tiny", "messages": HI})
V1 = send("/v1/chat/completions", {"model": "tiny", "messages": HI, "stream": True})
V1_TEXT = send("/v1/completions", {"model": "tiny", "prompt": "hi", "stream": True})
MESSAGES = send("/v1/messages", {"model": "tiny", "messages": HI, "max_tokens": 99, "stream": True})
WHOLE = send("/api/generate", {"model": "tiny", "prompt": "hi", "stream": False})
UNLOAD = send("/api/generate", {"model": "tiny", "keep_alive": 0})

EARLY: tuple[tuple[dict[str, object], str], ...] = (
    ({"oom": True}, "oom"),
    ({"crash_at_load": True}, "load-failure"),
    ({"die_before_first": True}, "load-failure"),
)
LATE: tuple[dict[str, object], ...] = ({"die_after": 3}, {"error_after": 3})


@dataclass(frozen=True, slots=True)
class House:
    """Equal daemons, the first with a sidecar before it in each mode."""

    first: Program
    second: Program
    alone: Program
    among: Program
    wishes: Path

    def wish(self, wish: dict[str, object]) -> None:
        """Have the first daemon's engine fail, from its next load on."""
        self.wishes.unlink(missing_ok=True)
        for daemon in (self.first, self.second):
            converse(daemon.address, UNLOAD)
            eventually(_unloaded(daemon))
        self.wishes.write_text(json.dumps(wish))


def _unloaded(daemon: Program) -> Callable[[], bool]:
    return lambda: "tiny:latest" not in names(daemon, "/api/ps")


@pytest.fixture(scope="module")
def equals(
    ollama_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Program, Program, Path]]:
    engine = ollama_binary.parents[1] / "lib" / "ollama" / "llama-server"
    if not engine.is_file() or b"STANDIN_CONTROL" not in engine.read_bytes():
        pytest.skip("the engine of this Ollama is no stand-in that fails on demand")
    folder = tmp_path_factory.mktemp("engine")
    first, second = twins(ollama_binary, folder)
    yield first, second, folder / "one" / CONTROL
    first.stop()
    second.stop()


@pytest.fixture
def house(equals: tuple[Program, Program, Path], tmp_path: Path) -> Iterator[House]:
    """Sidecars of its own for each test: they remember failures."""
    first, second, wishes = equals
    nodes = f"b={second.url}"
    alone = start_sidecar(first, tmp_path / "alone")
    among = start_sidecar(first, tmp_path / "among", OLLAMA_WRAP_NODES=nodes, NODE_ID="a")
    eventually(lambda: b'"nodes":["a","b"]' in _tags(among))
    yield House(first, second, alone, among, wishes)
    wishes.unlink(missing_ok=True)
    alone.stop()
    among.stop()


@pytest.mark.parametrize(
    "asked", [GENERATE, CHAT, V1, WHOLE], ids=["stream", "chat", "v1", "whole"]
)
@pytest.mark.parametrize("wish, word", EARLY, ids=str)
def test_failure_before_the_first_byte_goes_unnoticed(
    house: House, wish: dict[str, object], word: str, asked: Script
) -> None:
    house.wish(wish)

    answer = converse(house.among.address, asked).answers[0]

    assert (answer.status, answer.clean) == (200, True)
    assert SENTENCE.split()[-1].encode() in answer.body
    assert b'"error"' not in answer.body
    assert answer.header(b"X-Ollama-Node") == b"b"
    assert answer.header(b"X-Ollama-Fallback-Reason") == word.encode()


@pytest.mark.parametrize(
    "asked", [GENERATE, CHAT, V1, MESSAGES], ids=["generate", "chat", "v1", "m"]
)
@pytest.mark.parametrize("wish", [*(one for one, _ in EARLY), *LATE], ids=str)
def test_alone_the_end_is_stock_s_own(house: House, wish: dict[str, object], asked: Script) -> None:
    house.wish(wish)
    direct = converse(house.first.address, asked)
    house.wish(wish)

    through = converse(house.alone.address, asked)

    found = differences(direct, through)
    hop = direct.answers[0].header(b"connection") == b"keep-alive"
    parts = {sentence.partition(":")[0] for sentence in found}
    assert parts == ({"headers"} if hop else set()), "\n".join(found)


@pytest.mark.parametrize("wish", LATE, ids=str)
@pytest.mark.parametrize("asked", [GENERATE, CHAT], ids=["generate", "chat"])
def test_native_stream_ends_in_stock_s_own_error_line(
    house: House, wish: dict[str, object], asked: Script
) -> None:
    house.wish(wish)
    direct = converse(house.first.address, asked)
    house.wish(wish)

    through = converse(house.among.address, asked)

    assert b'"error"' in through.answers[0].chunks[-1]
    assert differences(direct, through) == []


@pytest.mark.parametrize("wish", LATE, ids=str)
@pytest.mark.parametrize("asked", [V1, V1_TEXT], ids=["chat", "completions"])
def test_compatible_stream_that_stock_ends_as_if_whole_is_marked_and_cut(
    house: House, wish: dict[str, object], asked: Script
) -> None:
    house.wish(wish)

    answer = converse(house.among.address, asked).answers[0]

    assert answer.status == 200
    assert b"[DONE]" not in answer.body
    assert b'"error"' in answer.chunks[-1]
    assert not answer.clean


def test_slow_load_is_waited_for(house: House) -> None:
    house.wish({"load_seconds": 4})

    answer = converse(house.among.address, GENERATE).answers[0]

    assert said(answer) == SENTENCE
    assert answer.header(b"X-Ollama-Node") == b"a"
    assert not answer.header(b"X-Ollama-Fallback")


def test_node_that_ran_out_of_memory_is_left_alone_for_this_model(house: House) -> None:
    house.wish({"oom": True})
    converse(house.among.address, GENERATE)
    house.wishes.unlink()

    again = converse(house.among.address, GENERATE).answers[0]

    assert again.header(b"X-Ollama-Node") == b"b"
    assert again.header(b"X-Ollama-Fallback-Reason") == b"circuit-open"


def _tags(program: Program) -> bytes:
    return converse(program.address, ask("GET", "/api/tags")).answers[0].body
