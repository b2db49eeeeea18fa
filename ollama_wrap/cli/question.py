"""Asks a person at a terminal where the real Ollama is, when nothing says so.

Owns the question; must not know what the address is used for.
"""

from typing import TextIO
from urllib.parse import urlsplit

from ollama_wrap.config import Settings
from ollama_wrap.config.values import parse_address


def ask_local(settings: Settings, stdin: TextIO | None, stderr: TextIO | None) -> Settings:
    """The settings with the address that was typed; as they are where nobody is there to ask."""
    if stdin is None or stderr is None or not (stdin.isatty() and stderr.isatty()):
        return settings
    default = settings.local.address
    stderr.write("OLLAMA_LOCAL_ADDR is not set (set it, and nothing is asked).\n")
    while True:
        stderr.write(f"Where does the real Ollama listen? [{default}] ")
        stderr.flush()
        line = stdin.readline()
        # Enter takes the default, and so does the end of input.
        if not line.strip():
            return settings
        try:
            address = _usable(line, settings)
        except ValueError as error:
            stderr.write(f"{error}\n")
        else:
            local = settings.local.model_copy(update={"address": address})
            return settings.model_copy(update={"local": local})


def _usable(line: str, settings: Settings) -> str:
    address = str(parse_address(line))
    parts = urlsplit(address)
    if any(one.reaches(parts.hostname or "", parts.port or 0) for one in settings.server.listen):
        raise ValueError("the sidecar itself listens there; Ollama needs another port")
    return address
