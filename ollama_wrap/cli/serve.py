"""`ollama-wrap serve`: the sidecar under uvicorn, with our own protocol class."""

import socket
import sys
from argparse import ArgumentParser, Namespace

import uvicorn

from ollama_wrap import app
from ollama_wrap.cli.exits import Exit
from ollama_wrap.config import Settings
from ollama_wrap.errors import StateError
from ollama_wrap.observe import log
from ollama_wrap.state.folder import Folder
from ollama_wrap.wire import inbound


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
        runtime = app.build(settings)
    except StateError as error:
        print(f"ollama-wrap: {error.text}", file=sys.stderr)
        return Exit.UNAVAILABLE
    sockets = []
    for listen in settings.server.listen:
        sock = socket.socket(socket.AF_INET6 if ":" in listen.host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((listen.host, listen.port))
        sockets.append(sock)
    config = uvicorn.Config(
        app.application(runtime),
        http=inbound.protocol(runtime.edge.take, runtime.guard),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=24 * 3600,
        backlog=4096,
    )
    server = uvicorn.Server(config)
    server.run(sockets)
    folder.release()
    return Exit.STOPPED
