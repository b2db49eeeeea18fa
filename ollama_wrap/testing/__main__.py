"""The fake Ollama as a process: `python -m ollama_wrap.testing --models tiny`.

Owns: its command line. Prints one line when it listens: ``listening on HOST:PORT``.
"""

import argparse
import asyncio
import os
from contextlib import suppress

from ollama_wrap.testing.daemon import Options
from ollama_wrap.testing.server import FakeOllama

_LISTS = ("origins", "registry")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ollama_wrap.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    book = "a file for a line a request, which outlives a kill"
    parser.add_argument("--book", type=argparse.FileType("a"), help=book)
    parser.add_argument("--models", default="tiny", help="comma list of name or name=digest")
    defaults = Options()
    for name in Options.__dataclass_fields__:
        flag, default = f"--{name.replace('_', '-')}", getattr(defaults, name)
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true")
        elif name in _LISTS:
            parser.add_argument(flag, default="", help="comma list")
        else:
            parser.add_argument(flag, type=type(default), default=default)
    return parser


async def _run(args: argparse.Namespace) -> None:
    options = {name: getattr(args, name) for name in Options.__dataclass_fields__}
    options |= {name: _split(options[name]) for name in _LISTS}
    where = {"host": args.host, "port": args.port}
    fake = FakeOllama(_split(args.models), on_death=lambda: os._exit(1), **where, **options)
    if args.book:
        fake.ledger.write_to(args.book)
    async with fake:
        print(f"listening on {fake.host}:{fake.port}", flush=True)
        await asyncio.Event().wait()


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_run(_parser().parse_args()))
