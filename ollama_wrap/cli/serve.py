"""`ollama-wrap serve`: the sidecar under uvicorn, with our own protocol class.

Owns the order of start and end. What each step does is elsewhere.
"""

import asyncio
import contextlib
import gc
import ssl
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import urlsplit

import uvicorn

from ollama_wrap import app, lifecycle, tasks
from ollama_wrap.cli import listeners
from ollama_wrap.cli.exits import Exit
from ollama_wrap.cli.gate import Gate
from ollama_wrap.cli.greeting import command, greet
from ollama_wrap.cli.machine import Machine
from ollama_wrap.cli.move import move
from ollama_wrap.cli.neighbour import Kind
from ollama_wrap.cli.question import ask_local
from ollama_wrap.config import Listen, Settings, passed_files
from ollama_wrap.config.values import is_loopback
from ollama_wrap.errors import ConfigError, StateError
from ollama_wrap.observe import host, log
from ollama_wrap.runtime import Runtime, leads_here
from ollama_wrap.state.folder import Folder
from ollama_wrap.wire import inbound
from ollama_wrap.wire.guard import HEAD

#: where an Ollama moves to unless OLLAMA_LOCAL_ADDR names a port of this machine
MOVED = 11436
#: what of the system is raised at start: files that may be open
FILES = 65_536
#: seconds for which calls wait, at most, until it is known that we do not ask ourselves
_CLOSED = 1.0
#: seconds between two looks at the clients that are left in the end
_LOOK = 0.02
#: seconds in which a new connection may be expected to bring a request
_JUST_NOW = 0.5
#: seconds that connections may take to empty their buffers in the end
_EMPTY = 1.0


def add(parser: ArgumentParser) -> None:
    """See `cli.Command`."""


def run(options: Namespace) -> int:
    """See `cli.Command`."""
    try:
        passed = listeners.adopt(passed_files())
    except listeners.Unfit as unfit:
        return _unavailable([str(unfit)])
    load = partial(Settings.load, env_file=options.env_file, passed=passed.listen)
    settings = load()
    log.configure(settings.log.level, settings.log.format)
    for warning in settings.warnings:
        log.get(__name__).warning(warning)
    try:
        folder = Folder(settings.state.dir)
    except StateError as error:
        return _unavailable([error.text])
    try:
        # Whoever passed sockets has bound them, and calls may be waiting there.
        bound = passed if passed.sockets else listeners.bind(settings.server.listen)
    except listeners.Taken as taken:
        return _unavailable([str(taken), *_advice(taken, settings)])
    else:
        return _run(settings, _as_bound(settings, bound), bound, load)
    finally:
        folder.release()


def _as_bound(settings: Settings, bound: listeners.Bound) -> Settings:
    """The settings as they run: port 0 has a number now, and somebody may have typed an address."""
    server = settings.server.model_copy(update={"listen": bound.listen})
    settings = settings.model_copy(update={"server": server})
    if "address" in settings.local.model_fields_set:
        return settings
    return ask_local(settings, sys.stdin, sys.stderr)


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


def _run(read: Settings, settings: Settings, bound: listeners.Bound, load: lifecycle.Load) -> int:
    # Before anything is built: how many connections we take depends on it.
    host.allow_files(FILES)
    try:
        runtime = app.build(settings, load=load)
    except StateError as error:
        bound.close()
        return _unavailable([error.text])
    if runtime.reload is not None:
        runtime.reload.started(read)
    gate = Gate(runtime.edge.take, runtime.boot)
    protocol = inbound.protocol(gate.take, runtime.guard)
    config = uvicorn.Config(
        app.application(runtime),
        http=protocol,
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
    serving = _Serving(runtime, config, bound, lambda: gate.open(protocol))
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        return runner.run(serving.whole())


class _Serving:
    """One run of the server. uvicorn's own would answer signals by dying of them."""

    def __init__(
        self,
        runtime: Runtime,
        config: uvicorn.Config,
        bound: listeners.Bound,
        let_in: Callable[[], None],
    ) -> None:
        """`let_in()`: calls may go on from here."""
        self.runtime = runtime
        self.bound = bound
        self.let_in = let_in
        self.stop = lifecycle.Stop()
        config.load()
        self.server = uvicorn.Server(config)
        self.server.lifespan = config.lifespan_class(config)

    async def whole(self) -> int:
        """From the first connection to the last."""
        self.stop.on_signals(self._reload)
        sockets = list(self.bound.sockets)
        try:
            await self.server.startup(sockets)
        except SystemExit:
            return Exit.FAILED
        # What is here by now stays: the collector would need 20 ms to look at it each time.
        gc.collect()
        gc.freeze()
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
        """Are we asking ourselves? Nobody is let in before that is known, or soon anyway."""
        runtime = self.runtime
        local = runtime.fleets.current.local.node
        tls = partial(ssl.create_default_context, cafile=runtime.settings.ca_file)
        test = tasks.start(leads_here(local, runtime.boot, tls), "self test")
        try:
            await asyncio.wait([test], timeout=_CLOSED)
            if not test.done():
                self.let_in()
            if await test:
                log.get(__name__).error(
                    f"OLLAMA_LOCAL_ADDR: {local.address} leads to this sidecar itself; "
                    "name the address of the real Ollama"
                )
                self.stop.ask(Exit.CONFIG)
        finally:
            await tasks.stop(test)
            if not self.stop.code:
                self.let_in()

    def _reload(self) -> None:
        if self.runtime.reload is not None and not self.stop.asked.is_set():
            tasks.start(self._read_anew(self.runtime.reload), "reload")

    async def _read_anew(self, reload: lifecycle.Reload) -> None:
        # What is wrong has been logged.
        with contextlib.suppress(ConfigError):
            await reload()

    async def _end(self) -> None:
        """Take nothing new, let what is open end, cut what does not."""
        runtime, stop = self.runtime, self.stop
        runtime.draining = True
        if stop.patient and runtime.used_by_peers():
            runtime.leave_to_others()
            lame = runtime.settings.server.lame_duck
            await lifecycle.either(stop.at_once.wait(), seconds=lame)
        # From here on nobody gets in; passed sockets go on listening where they came from.
        for listener in self.server.servers:
            listener.close()
        drain = 0.0 if stop.code else runtime.settings.server.drain
        cut = await lifecycle.finish(runtime.pipeline.running, stop, drain, self._see_off)
        await lifecycle.either(self._see_off(), seconds=_EMPTY)
        for connection in tuple(self.server.server_state.connections):
            connection.transport.abort()
        log.get(__name__).info("stopped", cut=cut)

    async def _see_off(self) -> None:
        """Come back when all clients have what they asked for, and are gone."""
        loop = asyncio.get_running_loop()
        while connections := tuple(self.server.server_state.connections):
            for one in connections:
                # Idle ones end by themselves; who has just come in has not asked yet.
                if not (isinstance(one, inbound.Inbound) and _will_ask(one, loop.time())):
                    one.shutdown()
            await self.runtime.clock.sleep(_LOOK)


def _will_ask(client: inbound.Inbound, now: float) -> bool:
    new = client.stage == HEAD and not client.served and now - client.since < _JUST_NOW
    return client.receiving or new
