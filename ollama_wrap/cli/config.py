"""`ollama-wrap config show|env|docs`: what is set, and what can be set."""

import sys
from argparse import ArgumentParser, Namespace

from ollama_wrap.cli.exits import Exit
from ollama_wrap.cli.settings import env_example, in_force, settings_page
from ollama_wrap.config import Settings


def add(parser: ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        choices=("show", "env", "docs"),
        default="show",
        help="the settings in force; or env.example; or docs/settings.md",
    )


def run(options: Namespace) -> int:
    if options.what == "show":
        settings = Settings.load(env_file=options.env_file)
        sys.stdout.write(in_force(settings))
        for sentence in settings.faults + settings.warnings:
            print(f"ollama-wrap: {sentence}", file=sys.stderr)
    else:
        sys.stdout.write(env_example() if options.what == "env" else settings_page())
    return Exit.STOPPED
