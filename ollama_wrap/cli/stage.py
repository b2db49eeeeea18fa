"""The processes of a demo, and what a client of them sees.

Starts fake Ollamas and a sidecar on free ports of loopback, and ends whatever it has
started. Must not know what the demo shows.
"""

import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import Self

from ollama_wrap.clock import Clock, SystemClock
from ollama_wrap.config import Settings, besides, rows

#: seconds until a process must say where it listens, and for an answer
PATIENCE = 15.0
WORDS = "Why is the sky blue?"
_LISTENS = re.compile(
    r"listening on 127\.0\.0\.1:(\d+)|ollama-wrap \S+ on http://127\.0\.0\.1:(\d+)"
)


class Failed(Exception):
    """Something did not happen as it was told."""


@dataclass(slots=True)
class Program:
    """A process that we started, what it has written, and where it listens."""

    process: subprocess.Popen[str]
    written: list[str] = field(default_factory=list)
    port: int = 0
    _listens: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """Read what it writes until it ends; runs in a thread."""
        assert self.process.stdout is not None  # noqa: S101  it was asked for
        for line in self.process.stdout:
            self.written.append(line.rstrip())
            if not self.port and (found := _LISTENS.search(line)):
                self.port = int(found[1] or found[2])
                self._listens.set()
        self._listens.set()

    def listens(self) -> int:
        """Its port, once it listens. Raises Failed."""
        self._listens.wait(PATIENCE)
        if not self.port:
            raise Failed("a program did not start:\n" + "\n".join(self.written[-20:]))
        return self.port

    def kill(self) -> None:
        """As `kill -9` does: at once, and it cannot say goodbye."""
        self.process.kill()
        self.process.wait()


@dataclass(slots=True)
class Answer:
    """What a client got; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    lines: list[str]

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())

    @property
    def said(self) -> str:
        """The words of a chat, streamed or not."""
        pieces = [json.loads(line).get("message", {}).get("content", "") for line in self.lines]
        return "".join(pieces).strip()


class Stage:
    """A place for processes; leaving it ends all of them."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()
        self.port = 0
        self._open = ExitStack()
        self._programs: list[Program] = []
        self._folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for program in self._programs:
            program.process.terminate()
        for program in self._programs:
            try:
                program.process.wait(3)
            # It was asked to end and does not.
            except subprocess.TimeoutExpired:
                program.kill()
        self._open.close()

    def start(self, arguments: Sequence[str], settings: Mapping[str, str]) -> Program:
        """Start a module of ours with these settings and no others."""
        process = subprocess.Popen(  # noqa: S603  our own modules
            [sys.executable, "-m", *arguments],
            cwd=self._folder,
            env={**besides(rows(Settings)), "PYTHONUNBUFFERED": "1", **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            # Ctrl-C is for the demo alone, which then ends the others.
            start_new_session=True,
        )
        program = Program(process)
        self._programs.append(program)
        threading.Thread(target=program.read, daemon=True).start()
        return program

    def fake(self, models: str, *options: str, port: int = 0) -> Program:
        """A fake Ollama; ask it where it `listens`."""
        fixed = ("--models", models, "--port", str(port))
        return self.start(("ollama_wrap.testing", *fixed, *options), {})

    def sidecar(self, settings: Mapping[str, str]) -> Program:
        """A sidecar; requests go to it from now on."""
        own = {
            # Nothing of the demo may meet a sidecar that runs here.
            "OLLAMA_WRAP_LISTEN": "127.0.0.1:0",
            "OLLAMA_WRAP_CONFIG_DIR": str(self._folder / "config"),
            "OLLAMA_WRAP_STATE_DIR": str(self._folder / "state"),
        }
        program = self.start(("ollama_wrap", "serve"), {**own, **settings})
        self.port = program.listens()
        return program

    def get(self, path: str) -> Answer:
        with self.open("GET", path) as answer:
            return _whole(answer)

    def chat(self, model: str, words: str = WORDS) -> Answer:
        """A question to a model, and the whole answer."""
        with self.asked(model, words, stream=False) as answer:
            return _whole(answer)

    @contextmanager
    def asked(
        self, model: str, words: str = WORDS, *, stream: bool = True
    ) -> Iterator[HTTPResponse]:
        """A question to a model; the answer is read by who asked."""
        message = {"role": "user", "content": words}
        body = {"model": model, "messages": [message], "stream": stream}
        with self.open("POST", "/api/chat", json.dumps(body)) as answer:
            yield answer

    @contextmanager
    def open(
        self, method: str, path: str, body: str | None = None, port: int = 0
    ) -> Iterator[HTTPResponse]:
        connection = HTTPConnection("127.0.0.1", port or self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            yield connection.getresponse()
        finally:
            connection.close()

    def later(self, model: str) -> "Later":
        """The same as `chat`, while something else happens."""
        return Later(self, model)

    def until(self, path: str, wanted: str, seconds: float = PATIENCE) -> Answer:
        """Ask again until the answer holds a text. Raises Failed."""
        end = self.clock.monotonic() + seconds
        while True:
            answer = self.get(path)
            if any(wanted in line for line in answer.lines):
                return answer
            if self.clock.monotonic() > end:
                raise Failed(f"{path} never said {wanted}")
            self.pause(0.1)

    def tell(self, program: Program, rule: Mapping[str, object]) -> None:
        """Give a fake a rule for the requests to come."""
        with self.open("POST", "/_fake/script", json.dumps(rule), program.listens()) as answer:
            answer.read()

    def pause(self, seconds: float) -> None:
        threading.Event().wait(seconds)


class Later:
    """A chat in a thread of its own."""

    def __init__(self, stage: Stage, model: str) -> None:
        self._answer: Answer | None = None
        self._thread = threading.Thread(target=self._run, args=(stage, model), daemon=True)
        self._thread.start()

    def _run(self, stage: Stage, model: str) -> None:
        with suppress(OSError, HTTPException):
            self._answer = stage.chat(model)

    def answer(self) -> Answer:
        """What came. Raises Failed."""
        self._thread.join(PATIENCE)
        if self._answer is None:
            raise Failed("a request was not answered")
        return self._answer


def lines(response: HTTPResponse) -> Iterator[str]:
    """The lines of an answer as they come. Raises HTTPException when it breaks off."""
    rest = b""
    # What is there, and no more: the demo shows lines as they come.
    while piece := response.read1(65_536):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in whole if line)
    if rest:
        yield rest.decode()


def _whole(response: HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, list(lines(response)))
