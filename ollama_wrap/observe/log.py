"""The log: one stream and one format, for us, the standard library's loggers and uvicorn.

Owns where lines go and when: they gather in memory and go out together after
100 ms or at 32 KiB, so that no request pays a system call for its line;
warnings and errors go out at once. A stream that fails is nobody's problem
but the reader's. How a line is written is in `lines.py`.
"""

import asyncio
import atexit
import contextlib
import logging
import sys
import threading
from collections.abc import Iterator, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO

import structlog

from ollama_wrap.clock import Clock, SystemClock
from ollama_wrap.observe import lines
from ollama_wrap.observe.ended import Ended
from ollama_wrap.observe.lines import Stamp

__all__ = ["Ended", "Logger", "Output", "configure", "debugging", "flush", "get", "request"]

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_INFO = LEVELS["info"]
LOUDEST_FIRST = ("error", "warning", "info")
#: their request lines would double ours, or carry what clients sent
QUIET = ("uvicorn.access", "httpx2", "httpcore2", "httpx", "httpcore")
FLUSH_AFTER = 0.1
FLUSH_AT = 32 * 1024
#: about the size of a request's line
REQUEST = 256


class Output:
    """Gathers lines and writes them to `stream` (None: standard error as it is then)."""

    def __init__(self, clock: Clock, stream: TextIO | None = None) -> None:
        self.level = LEVELS["info"]
        self.format = lines.FORMATS["logfmt"]
        self._clock = clock
        self._stream = stream
        #: lines, and requests with the wall time of their end, whose lines are not written yet
        self._lines: list[str | tuple[float, Ended]] = []
        self._size = 0
        # Other threads log too, and a finalizer may while a line is being added.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._second = -1
        self._stamps = ("", "")
        #: the last stamp, and its milliseconds
        self._at, self._last = -1, Stamp("", "")

    @property
    def stream(self) -> TextIO:
        return self._stream or sys.stderr

    def request(self, ended: Ended) -> None:
        """The one line of a request that ended."""
        if self.level > _INFO and LEVELS[ended.level] < self.level:
            return
        with self._lock:
            self._lines.append((self._clock.now(), ended))
            self._size += REQUEST
            if self._loop is None or self._size >= FLUSH_AT or not self._loop.is_running():
                self._look()

    def event(self, level: str, event: str, fields: MutableMapping[str, Any]) -> None:
        """Any other line; an exception under `exc_info` becomes fields."""
        error = fields.pop("exc_info", None)
        if error is True:
            error = sys.exception()
        if isinstance(error, BaseException):
            fields.update(lines.failure(error))
        line = self.format.event(self._stamp(self._clock.now()), level, event, fields)
        self._add(line, len(line))
        if LEVELS[level] >= LEVELS["warning"]:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        with self._lock:
            self._loop = None
            gathered, self._lines, self._size = self._lines, [], 0
            if gathered:
                # Nobody is left to be told, and no request may fail for want of its line.
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    self.stream.write("".join(self._written(gathered)))
                    self.stream.flush()

    def _written(self, gathered: list[str | tuple[float, Ended]]) -> Iterator[str]:
        # Together they cost less than each at its time: what they need stays at hand.
        request = self.format.request
        for line in gathered:
            if isinstance(line, str):
                yield line
                continue
            at, ended = line
            # Many are of one millisecond.
            stamp = self._last if int(at * 1000) == self._at else self._stamp(at)
            yield request(stamp, ended)

    def _add(self, line: str | tuple[float, Ended], size: int) -> None:
        with self._lock:
            self._lines.append(line)
            self._size += size
            self._look()

    def _look(self) -> None:
        if self._size >= FLUSH_AT or not self._will_flush():
            self.flush()

    def _will_flush(self) -> bool:
        # Asking for the running loop is a system call before Python 3.12.
        if self._loop is not None and self._loop.is_running():
            return True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        # A timer of a loop that has ended never fires.
        if self._loop is not loop:
            self._loop = loop
            loop.call_later(FLUSH_AFTER, self.flush)
        return True

    def _stamp(self, now: float) -> Stamp:
        at = int(now * 1000)
        second, millis = divmod(at, 1000)
        if second != self._second:
            moment = datetime.fromtimestamp(second, UTC)
            self._second = second
            self._stamps = (f"{moment:%Y-%m-%dT%H:%M:%S}", f"{moment.astimezone():%H:%M:%S}")
        iso, local = self._stamps
        self._at, self._last = at, Stamp(f"{iso}.{millis:03d}Z", f"{local}.{millis:03d}")
        return self._last


class Logger(structlog.BoundLoggerBase):
    """Events of one module: a short sentence, and fields."""

    def debug(self, event: str, **fields: object) -> None:
        if _output.level <= LEVELS["debug"]:
            self._proxy_to_logger("debug", event, **fields)

    def info(self, event: str, **fields: object) -> None:
        if _output.level <= LEVELS["info"]:
            self._proxy_to_logger("info", event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        if _output.level <= LEVELS["warning"]:
            self._proxy_to_logger("warning", event, **fields)

    def error(self, event: str, **fields: object) -> None:
        self._proxy_to_logger("error", event, **fields)

    def exception(self, event: str, **fields: object) -> None:
        """An error together with the exception that is being treated."""
        self._proxy_to_logger("error", event, exc_info=True, **fields)


class Bridge(logging.Handler):
    """Leads the standard library's records into our stream."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            fields["exc_info"] = record.exc_info[1]
        try:
            event = record.getMessage()
        except (TypeError, ValueError):
            event = str(record.msg)
        level = next((n for n in LOUDEST_FIRST if LEVELS[n] <= record.levelno), "debug")
        _output.event(level, event, fields)


def configure(level: str, fmt: str) -> None:
    """Set level (debug, info, warning, error) and format, and take in the standard library.

    `fmt` is console, logfmt, json, or auto: console on a terminal, else logfmt.
    May be called again; libraries stay at info, since their debug lines show
    what they send.
    """
    if fmt == "auto":
        fmt = "console" if _is_terminal(_output.stream) else "logfmt"
    _output.format = lines.FORMATS[fmt]
    _output.level = LEVELS[level]
    root = logging.getLogger()
    # Handlers of an embedding program, and those of pytest, stay.
    for old in [h for h in root.handlers if type(h) in {logging.StreamHandler, Bridge}]:
        root.removeHandler(old)
    root.addHandler(Bridge())
    root.setLevel(max(LEVELS[level], LEVELS["info"]))
    logging.getLogger("ollama_wrap").setLevel(LEVELS[level])
    for name in QUIET:
        logging.getLogger(name).setLevel(LEVELS["warning"])
    logging.captureWarnings(capture=True)


def get(name: str) -> Logger:
    """The logger of a module; what it says goes where `configure` says by then."""
    return Logger(_output, [_write], {"logger": name})


def debugging() -> bool:
    """Whether debug lines are written: asked where their fields cost something."""
    return _output.level <= LEVELS["debug"]


def flush() -> None:
    """Write what has gathered; for the end of the program."""
    _output.flush()


def _write(output: Output, level: str, fields: MutableMapping[str, Any]) -> str:
    output.event(level, fields.pop("event"), fields)
    raise structlog.DropEvent


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


_output = Output(SystemClock())
#: writes the line of a request that ended
request = _output.request
atexit.register(_output.flush)
