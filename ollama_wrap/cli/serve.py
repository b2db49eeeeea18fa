"""`ollama-wrap serve`: the sidecar under uvicorn, with our own protocol class.

Owns the order of start and end. What each step does is elsewhere.
"""

import asyncio
import ssl
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from urllib.parse import urlsplit

import uvicorn

from ollama_wrap import app, lifecycle, tasks
from ollama_wrap.api.plan import NONCE
from ollama_wrap.backends.client import Client, Question
from ollama_wrap.cli import listeners
from ollama_wrap.cli.exits import Exit
from ollama_wrap.cli.greeting import command, greet
from ollama_wrap.cli.machine import Machine
from ollama_wrap.cli.move import move
from ollama_wrap.cli.neighbour import Kind
from ollama_wrap.cli.question import ask_local
from ollama_wrap.config import Listen, Settings
from ollama_wrap.config.values import is_loopback
from ollama_wrap.errors import StateError, UpstreamError
from ollama_wrap.observe import host, log
from ollama_wrap.runtime import Runtime
from ollama_wrap.state.folder import Folder
from ollama_wrap.wire import inbound

#: where an Ollama moves to unless OLLAMA_LOCAL_ADDR names a port of this machine
MOVED = 11436
#: what of the system is raised at start: files that may be open
FILES = 65_536
#: seconds of the self test
_SELF_TEST = 2.0
#: seconds that connections may take to empty their buffers in the end
_EMPTY = 1.0


def add(parser: ArgumentParser) -> None:
    """See `cli.Command`."""


def run(options: Namespace) -> int:
    """See `cli.Command`."""
    settings = Settings.load(env_file=options.env_file)
    log.configure(settings.log.level, settings.log.format)
    for warning in settings.warnings:
        log.get(__name__).warning(warning)
    try:
        folder = Folder(settings.state.dir)
    except StateError as error:
        return _unavailable([error.text])
    try:
        bound = listeners.bind(settings.server.listen)
    except listeners.Taken as taken:
        return _unavailable([str(taken), *_advice(taken, settings)])
    else:
        # What was bound is what holds: port 0 has a number now.
        server = settings.server.model_copy(update={"listen": bound.listen})
        settings = settings.model_copy(update={"server": server})
        if "address" not in settings.local.model_fields_set:
            settings = ask_local(settings, sys.stdin, sys.stderr)
        return _run(settings, bound)
    finally:
        folder.release()


def _unavailable(lines: Sequence[str]) -> Exit:
    print("ollama-wrap: " + "\n".join(lines), file=sys.stderr)
    return Exit.UNAVAILABLE


def _advice(taken: listeners.Taken, settings: Settings) -> list[str]:
    """What to do about who has the address."""
    if taken.by is None or taken.by.kind is Kind.OTHER:
        return ["Choose another address with OLLAMA_WRAP_LISTEN, or end what has this one."]
    if taken.by.kind is Kind.SIDECAR:
        return ["One sidecar is enough there; a second one needs another OLLAMA_WRAP_LISTEN."]
    local = urlsplit(settings.local.address)
    ours = is_loopback(local.hostname or "") and local.port != taken.listen.port
    target = Listen("127.0.0.1", local.port if ours and local.port else MOVED)
    found = Machine().ollama_at(taken.listen.port)
    return move(found, taken.listen, target, command("serve"))


def _run(settings: Settings, bound: listeners.Bound) -> int:
    # Before anything is built: how many connections we take depends on it.
    host.allow_files(FILES)
    try:
        runtime = app.build(settings)
    except StateError as error:
        bound.close()
        return _unavailable([error.text])
    config = uvicorn.Config(
        app.application(runtime),
        http=inbound.protocol(runtime.edge.take, runtime.guard),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=24 * 3600,
        timeout_graceful_shutdown=1,
        backlog=4096,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(_Serving(runtime, config, bound).whole())


class _Serving:
    """One run of the server. uvicorn's own would answer signals by dying of them."""

    def __init__(self, runtime: Runtime, config: uvicorn.Config, bound: listeners.Bound) -> None:
        self.runtime = runtime
        self.bound = bound
        self.stop = lifecycle.Stop()
        config.load()
        self.server = uvicorn.Server(config)
        self.server.lifespan = config.lifespan_class(config)

    async def whole(self) -> int:
        """From the first connection to the last."""
        self.stop.on_signals()
        sockets = list(self.bound.sockets)
        try:
            await self.server.startup(sockets)
        except SystemExit:
            return Exit.FAILED
        besides = [
            tasks.start(self._test(), "self test"),
            tasks.start(greet(self.runtime), "start"),
        ]
        # All else happens in callbacks and in tasks of their own.
        await self.stop.asked.wait()
        await tasks.stop(*besides)
        await self._end()
        await self.server.shutdown(sockets)
        return self.stop.code

    async def _test(self) -> None:
        """Ask our Ollama, with a mark that only we know: are we asking ourselves."""
        runtime = self.runtime
        local = runtime.fleets.current.local
        # A name is looked up by the prober.
        if not local.addresses:
            await runtime.prober.first_round.wait()
        question = Question(
            "/api/version", 64 * 1024, _SELF_TEST, headers=((NONCE, runtime.boot.encode()),)
        )
        client = Client(local, lambda: ssl.create_default_context(cafile=runtime.settings.ca_file))
        try:
            answer = await client.ask(question)
        except UpstreamError:
            return  # nobody is there yet, which is no loop
        finally:
            await client.close()
        if answer.status == 508:
            log.get(__name__).error(
                f"OLLAMA_LOCAL_ADDR: {local.node.address} leads to this sidecar itself; "
                "name the address of the real Ollama"
            )
            self.stop.ask(Exit.CONFIG)

    async def _end(self) -> None:
        """Take nothing new, let what is open end, cut what does not."""
        runtime, stop = self.runtime, self.stop
        runtime.draining = True
        if stop.patient and runtime.used_by_peers():
            lame = runtime.settings.server.lame_duck
            await lifecycle.either(stop.at_once.wait(), seconds=lame)
        # From here on nobody gets in; idle connections end by themselves.
        for listener in self.server.servers:
            listener.close()
        for connection in tuple(self.server.server_state.connections):
            connection.shutdown()
        drain = 0.0 if stop.code else runtime.settings.server.drain
        cut = await lifecycle.finish(runtime.pipeline.running, stop, drain)
        await lifecycle.either(self._emptied(), seconds=_EMPTY)
        for connection in tuple(self.server.server_state.connections):
            connection.transport.abort()
        log.get(__name__).info("stopped", cut=cut)

    async def _emptied(self) -> None:
        while self.server.server_state.connections:
            await self.runtime.clock.sleep(0.01)
