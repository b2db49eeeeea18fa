"""The lines that move an Ollama to another port and put the sidecar in its place.

Pure: text from facts. Lines that can be pasted are indented, what is said to people
is not.
"""

import shlex
from collections.abc import Callable, Mapping

from ollama_wrap.cli.machine import Found, Place
from ollama_wrap.config.values import Listen, parse_listen

_DROP_IN = "/etc/systemd/system/ollama.service.d"
#: later than the file that `systemctl edit` writes, so that it wins
_FILE = f"{_DROP_IN}/zz-ollama-wrap.conf"
#: what counts at the Ollama and, in front of it, at the sidecar
_SHARED = ("OLLAMA_ORIGINS", "OLLAMA_NUM_PARALLEL")


def move(found: Found, listen: Listen, target: Listen, start: str) -> list[str]:
    """What to do with an Ollama at `listen`: to `target`, then `start` the sidecar there."""
    return [
        f"Move it to port {target.port}:",
        "",
        *_MOVES[found.place](found, target),
        "",
        "Then start the sidecar in its place:",
        "",
        *_sidecar(found, listen, start),
    ]


def _systemd(_: Found, target: Listen) -> list[str]:
    setting = f'[Service]\\nEnvironment="OLLAMA_HOST={target}"\\n'
    return [
        f"    sudo mkdir -p {_DROP_IN}",
        f"    printf '{setting}' | sudo tee {_FILE}",
        "    sudo systemctl daemon-reload",
        "    sudo systemctl restart ollama",
    ]


def _docker(_: Found, target: Listen) -> list[str]:
    return [
        "It runs in a container. Publish its port elsewhere, with all other options as before:",
        "",
        f"    docker run ... -p 127.0.0.1:{target.port}:11434 ... ollama/ollama",
        "",
        f'or in a compose file   ports: ["127.0.0.1:{target.port}:11434"]',
    ]


def _macos(_: Found, target: Listen) -> list[str]:
    return [
        f"    launchctl setenv OLLAMA_HOST {target}",
        "    osascript -e 'quit app \"Ollama\"'",
        "    open -a Ollama",
        "",
        "That holds until the next reboot, and reaches new terminals too. In those, so that the",
        "ollama command asks the sidecar:",
        "",
        "    export OLLAMA_HOST=127.0.0.1:11434",
        "",
        "Started without the app, stop it, then:",
        "",
        f"    OLLAMA_HOST={target} ollama serve",
    ]


def _windows(_: Found, target: Listen) -> list[str]:
    return [
        f"    setx OLLAMA_HOST {target}",
        "",
        "Quit Ollama from its icon in the task bar and start it again from the menu. In terminals,",
        "so that the ollama command asks the sidecar:",
        "",
        "    $env:OLLAMA_HOST = '127.0.0.1:11434'",
    ]


def _process(found: Found, target: Listen) -> list[str]:
    settings = {**(found.settings or {}), "OLLAMA_HOST": str(target)}
    given = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(settings.items()))
    # Its other variables come from its terminal, which has them already.
    stop = f"    kill {found.pid}" if found.pid else "    # stop the one that runs"
    return [stop, f"    {given} ollama serve"]


_MOVES: Mapping[Place, Callable[[Found, Listen], list[str]]] = {
    Place.SYSTEMD: _systemd,
    Place.DOCKER: _docker,
    Place.MACOS: _macos,
    Place.WINDOWS: _windows,
    Place.PROCESS: _process,
}


def _sidecar(found: Found, listen: Listen, start: str) -> list[str]:
    """Its settings where they differ from what holds without them, and the command."""
    carried = {name: (found.settings or {}).get(name, "") for name in _SHARED}
    wanted = _listened(found, listen)
    if wanted != listen:
        carried = {"OLLAMA_WRAP_LISTEN": str(wanted), **carried}
    lines = [_assignment(found, name, value) for name, value in carried.items() if value]
    lines.append(f"    {start}")
    if found.settings is None:
        lines += ["", f"Give it the {' and '.join(_SHARED)} that you gave Ollama, if any."]
    return lines


def _assignment(found: Found, name: str, value: str) -> str:
    if found.place is Place.WINDOWS:
        return f"    $env:{name} = '{value}'"
    return f"    export {name}={shlex.quote(value)}"


def _listened(found: Found, listen: Listen) -> Listen:
    """Where clients reached it: by its own setting, else by what it has bound."""
    try:
        said = parse_listen((found.settings or {})["OLLAMA_HOST"])
    except (KeyError, ValueError):
        said = None
    # A setting that names another port is not that of the one who listens here.
    if said is not None and said.port == listen.port:
        return said
    return Listen("0.0.0.0", listen.port) if found.wide else listen  # noqa: S104  as it listened
