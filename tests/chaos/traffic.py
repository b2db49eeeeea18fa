"""Clients of a chaos run: requests at a steady pace, each known by its mark, and what came.

The fakes begin each answer with the mark of its request and then say WORDS, so that an answer
is right only if it is whole, said once, and was meant for this client.
"""

import asyncio
import contextlib
import itertools
import json
import re
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.raw_http import RawReply, read_reply, request_bytes

#: what every fake says after the mark, on every node the same
WORDS = " ".join(f"w{number}" for number in range(12))
#: seconds that any request may take
PATIENCE = 60.0
_BROKEN = re.compile(r"stream interrupted")
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask: a path, a streamed answer or not, and where its words are."""

    name: str
    path: str
    stream: bool

    def body(self, model: str, mark: str) -> bytes:
        words = f"{mark} why is the sky blue?"
        fields: dict[str, Any] = {"model": model, "stream": self.stream}
        if self.path == "/api/generate":
            fields["prompt"] = words
        else:
            fields["messages"] = [{"role": "user", "content": words}]
        return json.dumps(fields).encode()

    def said(self, body: bytes) -> str:
        """The words of an answer, whole or broken."""
        text = ""
        for line in body.splitlines():
            value = line.removeprefix(b"data: ")
            with contextlib.suppress(ValueError, KeyError, IndexError, TypeError, AttributeError):
                text += self._words(json.loads(value))
        return text.strip()

    def _words(self, item: Any) -> str:
        if self.path == "/api/generate":
            return str(item["response"])
        if self.path == "/api/chat":
            return str(item["message"]["content"])
        choice = item["choices"][0]
        return str((choice.get("delta") or choice["message"])["content"] or "")

    def ended(self, body: bytes) -> bool:
        """Whether the stream's own last word came."""
        if self.path.startswith("/v1/"):
            return b"data: [DONE]" in body
        lines = body.splitlines()
        return any(b'"done":true' in line and line.endswith(b"}") for line in lines)


STREAMS = (
    Form("chat stream", "/api/chat", stream=True),
    Form("generate stream", "/api/generate", stream=True),
    Form("v1 stream", "/v1/chat/completions", stream=True),
)
WHOLES = (
    Form("chat", "/api/chat", stream=False),
    Form("generate", "/api/generate", stream=False),
    Form("v1", "/v1/chat/completions", stream=False),
)
#: streamed and not in turn
MIXED = tuple(itertools.chain(*zip(STREAMS, WHOLES, strict=True)))


@dataclass(slots=True)
class Told:
    """One request, and what its client was told. Times are those of the wall, in seconds."""

    mark: str
    form: Form
    model: str
    began: float
    first: float | None = None
    ended: float = 0.0
    reply: RawReply = field(default_factory=RawReply)
    #: why there is no answer at all; "left": the client went
    error: str = ""
    words: str = WORDS

    @property
    def node(self) -> str:
        return self.reply.header("x-ollama-node") or ""

    @property
    def attempts(self) -> tuple[str, ...]:
        """`node:word` of each attempt; nothing where the first one served."""
        given = self.reply.header("x-ollama-attempts") or ""
        return tuple(one.strip() for one in given.split(",") if one.strip())

    @property
    def text(self) -> str:
        return self.form.said(self.reply.body)

    @property
    def wanted(self) -> str:
        return f"{self.mark} {self.words}"

    @property
    def good(self) -> bool:
        """Whole, right, said once, and this client's own."""
        return (
            not self.error
            and (self.reply.status, self.reply.clean_end) == (200, True)
            and (not self.form.stream or self.form.ended(self.reply.body))
            and self.text == self.wanted
        )

    @property
    def begun(self) -> bool:
        """A byte of the body came."""
        return bool(self.reply.body)

    @property
    def marked(self) -> bool:
        """Broken as it must be: a right beginning, our marker, no clean end."""
        body = self.reply.body.decode("utf-8", "replace")
        return (
            self.reply.status == 200
            and len(_BROKEN.findall(body)) == 1
            and not self.reply.clean_end
            and not self.form.ended(self.reply.body)
            and self.wanted.startswith(self.text)
        )

    @property
    def took(self) -> float:
        return self.ended - self.began

    def __str__(self) -> str:
        end = self.error or f"{self.reply.status} {self.reply.error}"
        tail = self.reply.body[-160:]
        return f"{self.mark} {self.form.name} {self.node} {self.attempts} {end}: {tail!r}"


class Client:
    """Asks one sidecar; remembers everything that it was told."""

    def __init__(self, port: Callable[[], int], model: str = "tiny") -> None:
        self._port = port
        self._model = model
        self._open: set[asyncio.Task[Told]] = set()
        self.told: list[Told] = []

    async def ask(
        self,
        form: Form = STREAMS[0],
        model: str = "",
        *,
        headers: Iterable[tuple[str, str]] = (),
        words: str = WORDS,
        mark: str = "",
        rough: bool = False,
    ) -> Told:
        """One request on a connection of its own, to its end; errors are noted in it.

        `mark`: that of an earlier request, which is asked again. `rough`: a client that leaves
        resets its connection.
        """
        mark = mark or f"#q{next(_numbers)}"
        told = Told(mark, form, model or self._model, time.time(), words=words)
        self.told.append(told)
        request = request_bytes(
            "POST", form.path, form.body(told.model, told.mark), [*headers, ("Connection", "close")]
        )
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port())
                if rough:
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                try:
                    writer.write(request)
                    await self._read(told, reader)
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            told.error = f"{type(error).__name__}: {error}"
        except asyncio.CancelledError:
            told.error = "left"
            raise
        finally:
            told.ended = time.time()
        return told

    async def _read(self, told: Told, reader: asyncio.StreamReader) -> None:
        # Whether it had begun is seen by the first byte, before the rest is there.
        first = await reader.read(1)
        told.first = time.time()
        again = _Again(first, reader)
        told.reply = await read_reply(again, "POST")  # type: ignore[arg-type]

    def start(self, form: Form = STREAMS[0], model: str = "", **more: Any) -> asyncio.Task[Told]:
        """The same, while something else happens."""
        task = asyncio.get_running_loop().create_task(self.ask(form, model, **more))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        return task

    async def keep(
        self, seconds: float, rate: float = 20.0, forms: Sequence[Form] = MIXED, **more: Any
    ) -> None:
        """Start `rate` requests a second, for so long; comes back when the last was started."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(int(seconds * rate)):
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            self.start(forms[number % len(forms)], **more)

    @contextlib.asynccontextmanager
    async def traffic(self, rate: float = 20.0, **more: Any) -> AsyncIterator[None]:
        """Requests in the background, until the block is left and the last was answered."""
        going = asyncio.get_running_loop().create_task(self.keep(600.0, rate, **more))
        try:
            yield
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)
        await self.done()

    async def done(self, seconds: float = PATIENCE) -> None:
        """Every request has ended."""
        if self._open:
            await asyncio.wait(set(self._open), timeout=seconds)

    def leave(self) -> None:
        """Every client goes."""
        for task in self._open:
            task.cancel()

    @property
    def open(self) -> int:
        return len(self._open)

    def failed(self) -> list[Told]:
        """Those that got an error or wrong bytes; clients that left do not count."""
        return [one for one in self.told if one.ended and one.error != "left" and not one.good]


class _Again:
    """A reader that gives back what was read of it before."""

    def __init__(self, first: bytes, reader: asyncio.StreamReader) -> None:
        self._first = first
        self._reader = reader

    async def readuntil(self, end: bytes) -> bytes:
        first, self._first = self._first, b""
        return first + await self._reader.readuntil(end)

    async def readexactly(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def read(self, most: int) -> bytes:
        return await self._reader.read(most)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of them do not exceed; 0.0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
