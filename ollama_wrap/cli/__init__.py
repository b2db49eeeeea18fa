"""The command line: finds the command, gives it its options, returns its exit code.

A command is a module with `add(parser)` for its options and `run(options) -> int`; it is
imported when it is asked for. `options.env_file` is there for all of them. Without a
command it is `serve`.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from ollama_wrap import __version__
from ollama_wrap.cli.exits import Exit
from ollama_wrap.errors import ConfigError

COMMANDS = {
    "serve": "pass requests on; the default",
    "demo": "start three fake Ollamas and a sidecar, send traffic, kill a node",
    "config": "show the settings in force, or write env.example and docs/settings.md",
}


class Command(Protocol):
    """What a module of a command offers."""

    def add(self, parser: ArgumentParser) -> None:
        """Declare the command's own options."""

    def run(self, options: Namespace) -> int:
        """Do it; the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; raises SystemExit(2) for one that cannot be understood."""
    first = _parser().parse_args(argv)
    try:
        return _run(first)
    except ConfigError as error:
        for problem in error.problems:
            print(f"ollama-wrap: {problem}", file=sys.stderr)
        return Exit.CONFIG
    except KeyboardInterrupt:
        return Exit.STOPPED


def _run(first: Namespace) -> int:
    # Only the module of this command is loaded.
    command = cast("Command", import_module(f"ollama_wrap.cli.{first.command}"))
    parser = ArgumentParser(f"ollama-wrap {first.command}", description=COMMANDS[first.command])
    _add_env_file(parser, first.env_file)
    command.add(parser)
    return command.run(parser.parse_args(first.rest))


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "ollama-wrap",
        description="A transparent sidecar for stock Ollama.",
        epilog="commands:\n" + "\n".join(f"  {name:8}{text}" for name, text in COMMANDS.items()),
        formatter_class=RawDescriptionHelpFormatter,
    )
    _add_env_file(parser, None)
    parser.add_argument("--version", action="version", version=f"ollama-wrap {__version__}")
    parser.add_argument("command", nargs="?", choices=COMMANDS, default="serve")
    parser.add_argument("rest", nargs="...", metavar="options")
    return parser


def _add_env_file(parser: ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--env-file", metavar="FILE", default=default, help="a .env file with settings"
    )
