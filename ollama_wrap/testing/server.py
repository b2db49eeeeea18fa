"""The fake Ollama itself: a listening socket, its connections, and one request after another.

Owns: start, stop, death and return of the fake; the life of a connection as Go's server has it.
Must not know: what the routes answer.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Self

from ollama_wrap.testing.connection import Connection, GoneError
from ollama_wrap.testing.control import PREFIX, control
from ollama_wrap.testing.daemon import Daemon, Options, text_of
from ollama_wrap.testing.gojson import BadJsonError, first_value
from ollama_wrap.testing.ledger import KEPT, End, Entry, Ledger
from ollama_wrap.testing.openai import multipart
from ollama_wrap.testing.reply import CutError, Reply, Sender
from ollama_wrap.testing.request import Request, UnreadableError, read_head
from ollama_wrap.testing.routes import answer, find
from ollama_wrap.testing.script import Rule, Script
from ollama_wrap.testing.store import ModelSpec, Store

#: What Go reads of a body that no handler wanted, before it answers and closes
_POST_HANDLER_LIMIT = 256 * 1024
#: Seconds between the end of an early answer and the close, as in Go
_LINGER = 0.5
#: How a client marks its requests where `echo` is set
_MARK = re.compile(rb"#[0-9A-Za-z-]+")


class FakeOllama:
    """A server on a loopback port that behaves as stock Ollama does, or as its script says.

    ``async with FakeOllama(models=["tiny"]) as fake`` starts and stops it. Options: `Options`.
    """

    def __init__(
        self,
        models: Iterable[ModelSpec | str] = ("tiny",),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        on_death: Callable[[], None] | None = None,
        **options: float | str | tuple[str, ...],
    ) -> None:
        self.host = host
        self.port = port
        made = Options(**options)  # type: ignore[arg-type]
        self.daemon = Daemon(Store(models), made, on_death or self.die)
        self._server: asyncio.Server | None = None
        self._open: set[Connection] = set()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://{self.host}:{self.port}"

    @property
    def ledger(self) -> Ledger:
        """What it saw."""
        return self.daemon.ledger

    @property
    def script(self) -> Script:
        """What it is to do wrong."""
        return self.daemon.script

    @property
    def store(self) -> Store:
        """Its models and blobs."""
        return self.daemon.store

    def on(self, **rule: object) -> None:
        """Add one rule to the script; fields as in `Rule`."""
        self.script.add(Rule(**rule))  # type: ignore[arg-type]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a death on the same port, with nothing loaded."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._serve, self._lost), self.host, self.port, backlog=1024
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End everything and wait for it."""
        tasks = [connection.task for connection in self._open if connection.task is not None]
        self.die()
        await asyncio.gather(*tasks, return_exceptions=True)

    def die(self) -> None:
        """Refuse and reset everything at once, as a killed process does."""
        if self._server is not None:
            self._server.close()
            self._server = None
        # A killed process closes nothing in order: peers see a reset.
        for connection in list(self._open):
            connection.reset()
            if connection.task is not None:
                connection.task.cancel()
        self.daemon.scheduler.clear()

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        self.ledger.counts.connections_open -= 1
        self.ledger.note()

    async def _serve(self, connection: Connection) -> None:
        """Answer the requests of one connection until it ends."""
        counts = self.ledger.counts
        counts.connections_open += 1
        counts.connections_total += 1
        connection.number = counts.connections_total
        self._open.add(connection)
        self.ledger.note()
        try:
            while await self._one(connection):
                pass
        except UnreadableError as error:
            await _refuse(connection, error)
        except (GoneError, CutError):
            pass
        except asyncio.CancelledError:
            connection.reset()
        finally:
            connection.close()

    async def _one(self, connection: Connection) -> bool:
        """Read and answer one request; return whether the connection stays."""
        request = await read_head(connection)
        if request.path.startswith(PREFIX):
            request.raw = b"".join([piece async for piece in request.pieces()])
            reply = await control(self.daemon, request)
            await Sender(connection, Rule()).send(reply, request, closing=not request.keeps_alive)
            return request.keeps_alive
        entry = self._enter(request)
        sender = Sender(connection, Rule())
        try:
            await self._read(request, entry)
            self.ledger.book(entry)
            rule = request.rule
            sender = Sender(connection, rule)
            return await self._reply(request, entry, sender)
        except CutError:
            entry.end = End.CUT
            raise
        except (GoneError, asyncio.CancelledError):
            entry.end = End.CANCELLED if connection.client_left else End.CUT
            raise
        finally:
            connection.watch(on=False)
            entry.sent = sender.sent
            self.ledger.note()
            self.ledger.book(entry)

    def _enter(self, request: Request) -> Entry:
        ledger = self.ledger
        entry = Entry(
            len(ledger.entries) + 1,
            request.connection.number,
            request.method,
            request.target,
            request.version,
            request.headers,
        )
        ledger.entries.append(entry)
        ledger.note()
        request.entry = entry
        return entry

    async def _read(self, request: Request, entry: Entry) -> None:
        """Read the body where stock does before it decides, and find the rule."""
        if self.script.deaf(request.method, request.path):
            request.connection.pause()
            await asyncio.Event().wait()
        route = find(request.method, request.path)
        # Stock binds the body before it looks for the model; a blob streams past it.
        if route is not None and not route.streams:
            request.raw = b"".join([piece async for piece in request.pieces()])
            _keep(request, entry)
        request.model = entry.model = _model_of(request)
        request.rule = self.script.match(request.method, request.path, request.model)
        if self.daemon.options.echo and request.rule.say is None:
            request.rule = replace(request.rule, say=self._echoed(request.raw))
        # Only with the body read does Go look for a client that leaves.
        if not request.length:
            request.connection.watch(on=True)

    def _echoed(self, raw: bytes) -> str:
        marks = [mark.decode() for mark in _MARK.findall(raw)[-1:]]
        return " ".join([*marks, self.daemon.options.say])

    async def _reply(self, request: Request, entry: Entry, sender: Sender) -> bool:
        rule = request.rule
        await asyncio.sleep(rule.delay)
        if rule.die_after == 0:
            self.daemon.voice.die()
        # A process that dies ends this task; one that hangs never does.
        if rule.silence or rule.die_after == 0:
            await asyncio.Event().wait()
        if rule.status:
            headers = [("Content-Type", rule.content_type)] if rule.content_type else []
            reply = Reply(rule.status, headers, rule.body.encode())
        else:
            reply = await answer(self.daemon, request)
        # Go reads a little of an unwanted body before it writes the head.
        early = await _left_unread(request)
        tampered = _tampered(rule)
        stays = request.keeps_alive and not early and not tampered
        # Without chunks only the close says where a stream ends.
        if request.version == "HTTP/1.0" and not isinstance(reply.body, bytes):
            stays = False
        entry.status = reply.status
        request.connection.watch(on=not request.length)
        try:
            await sender.send(reply, request, closing=not stays and not tampered)
        finally:
            if not isinstance(reply.body, bytes):
                await reply.body.aclose()
        entry.end = End.SERVED
        if early:
            request.connection.half_close()
            request.connection.pause()
            self.ledger.note()
            await asyncio.sleep(_LINGER)
        return stays


async def _left_unread(request: Request) -> bool:
    """Drop a body that nobody read; return whether it is too long for that."""
    # The client was never asked for it: what comes next on the connection may be the body
    # or another request, and nobody can tell.
    if request.header("expect") and request.length and not request.begun:
        return True
    if request.length > _POST_HANDLER_LIMIT:
        return True
    dropped = 0
    async for piece in request.pieces():
        dropped += len(piece)
        if dropped > _POST_HANDLER_LIMIT:
            return True
    return False


def _tampered(rule: Rule) -> bool:
    """Say whether the answer's framing is bent, so that nothing can follow it."""
    framing = (rule.length_off, rule.drop_last_chunk, rule.raw is not None)
    return any(framing) or rule.break_chunk is not None


def _keep(request: Request, entry: Entry) -> None:
    entry.body_size = len(request.raw)
    entry.body_sha256 = sha256(request.raw).hexdigest()
    if entry.body_size <= KEPT:
        entry.body = request.raw


def _model_of(request: Request) -> str:
    """Return the model that a request names, for the rules; "" where it names none."""
    if request.path.startswith("/v1/models/"):
        return request.path.rpartition("/")[2]
    if request.header("content-type").startswith("multipart/"):
        return multipart(request).get("model", "")
    try:
        body = first_value(request.raw)
    except (BadJsonError, json.JSONDecodeError):
        return ""
    # A copy names its model `source`.
    return text_of(body, "model", "name", "source") if isinstance(body, dict) else ""


async def _refuse(connection: Connection, error: UnreadableError) -> None:
    """Answer as Go's server does before any handler, and close."""
    detail = f": {error.detail}" if error.detail else ""
    head = "Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    text = f"HTTP/1.1 {error.status}\r\n{head}{error.status}{detail}"
    with suppress(GoneError):
        await connection.write(text.encode())
        connection.half_close()
        connection.pause()
        await asyncio.sleep(_LINGER)
