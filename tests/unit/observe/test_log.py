import asyncio
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from ollama_wrap.observe import log
from ollama_wrap.observe.lines import FORMATS
from ollama_wrap.observe.log import FLUSH_AT, REQUEST, Output
from tests.fakes.clock import FakeClock
from tests.unit.observe.samples import ended


class Stream(io.StringIO):
    """Counts its writes."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def output(stream: Stream) -> Output:
    return Output(FakeClock(wall=1_700_000_000.25), stream)


@pytest.fixture
def configured(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """The log of the process, put back afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("ollama_wrap")
    before = root.handlers[:], root.level, ours.level
    log.flush()  # what earlier tests left
    capsys.readouterr()
    yield
    log.configure("info", "logfmt")
    logging.captureWarnings(capture=False)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def json_lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_request_lines_gather_until_they_are_flushed(output: Output, stream: Stream) -> None:
    for _ in range(3):
        output.request(ended())

    assert stream.getvalue() == ""
    output.flush()
    output.flush()
    assert stream.getvalue().count("event=request") == 3
    assert stream.writes == 1


async def test_timer_flushes_once_and_begins_anew(output: Output, stream: Stream) -> None:
    timers: list[object] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later
    loop.call_later = lambda *args: timers.append(args)  # type: ignore[method-assign, assignment]

    output.request(ended())
    output.request(ended())
    output.flush()
    output.request(ended())
    loop.call_later = call_later  # type: ignore[method-assign]

    assert timers == [(0.1, output.flush)] * 2


async def test_warnings_go_out_at_once_with_what_came_before(
    output: Output, stream: Stream
) -> None:
    output.request(ended())
    output.event("info", "one", {})
    assert stream.writes == 0

    output.event("warning", "two", {})

    assert stream.writes == 1
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == [
        "event=request", "event=one", "event=two",
    ]  # fmt: skip


async def test_full_buffer_goes_out(output: Output, stream: Stream) -> None:
    path = "/" + "x" * 390
    while not stream.writes:
        output.event("info", path, {})

    assert FLUSH_AT <= len(stream.getvalue()) < FLUSH_AT + 2048


async def test_many_requests_go_out_before_their_time(output: Output, stream: Stream) -> None:
    for _ in range(FLUSH_AT // REQUEST):
        output.request(ended())

    assert stream.writes


def test_without_a_loop_lines_go_out_at_once(output: Output, stream: Stream) -> None:
    output.event("info", "starting", {})

    assert stream.writes == 1


def test_lines_of_a_loop_that_ended_are_not_stuck(output: Output, stream: Stream) -> None:
    async def speak() -> None:
        output.event("info", "hello", {})

    asyncio.run(speak())
    asyncio.run(speak())
    output.event("info", "bye", {})

    assert stream.getvalue().count("event=hello") == 2


async def test_lines_from_threads_are_all_written(output: Output, stream: Stream) -> None:
    def speak() -> None:
        for _ in range(200):
            output.event("info", "thread", {})

    threads = [threading.Thread(target=speak) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        output.request(ended())
    await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
    output.flush()

    assert stream.getvalue().count("\n") == 1000


async def test_broken_stream_harms_nobody() -> None:
    output = Output(FakeClock(), Broken())

    output.event("error", "lost", {})
    output.request(ended())
    output.flush()


async def test_time_is_utc_with_milliseconds(stream: Stream) -> None:
    clock = FakeClock(wall=1_700_000_000.25)
    output = Output(clock, stream)

    output.event("info", "a", {})
    clock.advance(0.5)
    output.event("info", "b", {})
    clock.advance(60)
    output.event("warning", "c", {})

    assert [line.split()[0] for line in stream.getvalue().splitlines()] == [
        "time=2023-11-14T22:13:20.250Z",
        "time=2023-11-14T22:13:20.750Z",
        "time=2023-11-14T22:14:20.750Z",
    ]


@pytest.mark.parametrize(
    "level, statuses", [("info", [200, 500]), ("warning", [500]), ("error", [])]
)
async def test_level_holds_for_requests_too(
    output: Output, stream: Stream, level: str, statuses: list[int]
) -> None:
    output.level = log.LEVELS[level]
    output.format = FORMATS["json"]

    output.request(ended(status=200))
    output.request(ended(status=500))
    output.flush()

    assert [line["status"] for line in json_lines(stream.getvalue())] == statuses


@pytest.mark.usefixtures("configured")
def test_all_logs_end_in_one_stream_and_format(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")

    log.get("ollama_wrap.a").info("ours", node="r1")
    logging.getLogger("uvicorn.error").info("started %s", "here")
    record = {"name": "library", "levelno": 50, "msg": "bad %d", "args": ("arguments",)}
    log.Bridge().handle(logging.makeLogRecord(record))
    log.request(ended())
    log.flush()

    lines = json_lines(capsys.readouterr().err)
    assert [(line["event"], line.get("logger")) for line in lines] == [
        ("ours", "ollama_wrap.a"),
        ("started here", "uvicorn.error"),
        ("bad %d", "library"),
        ("request", None),
    ]
    assert lines[0]["node"] == "r1"
    assert [line["level"] for line in lines] == ["info", "info", "error", "info"]


@pytest.mark.usefixtures("configured")
def test_debug_is_for_our_own_rooms(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("debug", "logfmt")
    assert log.debugging()

    log.get("a").debug("ours")
    logging.getLogger("ollama_wrap.tasks").debug("ours as well")
    logging.getLogger("library").debug("prompt")
    logging.getLogger("uvicorn.access").info("path")

    written = capsys.readouterr().err
    assert written.count("ours") == 2
    assert "prompt" not in written
    assert "path" not in written


@pytest.mark.usefixtures("configured")
def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logger = log.get("a")
    for level, words in (("debug", "diwe"), ("info", "iwe"), ("warning", "we"), ("error", "e")):
        log.configure(level, "logfmt")

        logger.debug("d")
        logger.info("i")
        logger.warning("w")
        logger.error("e")

        written = capsys.readouterr().err
        assert "".join(line.split("event=")[1][0] for line in written.splitlines()) == words


@pytest.mark.usefixtures("configured")
def test_exceptions_are_one_line_without_what_they_repeat(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.configure("info", "logfmt")

    try:
        int("secret prompt")
    except ValueError:
        log.get("a").exception("broke")
        logging.getLogger("b").exception("broke too")

    written = capsys.readouterr().err
    assert written.count("\n") == 2
    assert written.count("error=ValueError where=") == 2
    assert "secret" not in written


@pytest.mark.usefixtures("configured")
def test_configuring_twice_does_not_double_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    log.configure("info", "auto")

    logging.getLogger("library").warning("once")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("twice\nshy", UserWarning, stacklevel=1)

    written = capsys.readouterr().err
    assert written.count("event=once") == 1
    assert written.count("\n") == 2


@pytest.mark.usefixtures("configured")
def test_auto_is_the_console_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    log.configure("info", "auto")
    log.get("a").info("node is up")

    assert terminal.getvalue()[12:] == " info    node is up logger=a\n"
