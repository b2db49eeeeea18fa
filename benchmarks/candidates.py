"""What is measured: the sidecar in several settings, and the proxies beside it."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolchain import HERE, find

#: as many as a node may declare
SLOTS = 1024
#: ports, all on loopback: the local Ollama; one on another node; more nodes; proxies
LOCAL, FAR, MANY, PROXIES = 19700, 19701, 19710, 19740
#: a port where nobody listens, and one where connections are never answered
GONE, MUTE = 19798, 19799
#: the other nodes of `wrap-20-nodes`, the models that each has to itself, and how many of them
#: have the common models too
OTHERS, MODELS, HOLDERS = 19, 27, 2


@dataclass(frozen=True, slots=True)
class Command:
    argv: Sequence[str]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """`command` makes the way to start it on a port, with a folder of its own.

    `upstream`: the port of the mock that gets its requests. `special`: only for
    the tests that name it.
    """

    command: Callable[[Path, int], Command] | None
    upstream: int = LOCAL
    special: bool = False
    ours: bool = False
    node: str | None = None
    """Who must answer a generate call, by X-Ollama-Node, in mode distributed."""


def sidecar(*, upstream: int = LOCAL, special: bool = False, **env: str) -> Candidate:
    """`python -m ollama_wrap serve`, everything on, the local mock as its Ollama."""

    def command(folder: Path, port: int) -> Command:
        settings = {
            "OLLAMA_WRAP_LISTEN": f"127.0.0.1:{port}",
            "OLLAMA_LOCAL_ADDR": f"http://127.0.0.1:{LOCAL}",
            "OLLAMA_WRAP_STATE_DIR": str(folder / "state"),
            "OLLAMA_WRAP_CONFIG_DIR": str(folder),
            "OLLAMA_WRAP_NODE_ID": "bench",
            "OLLAMA_NUM_PARALLEL": str(SLOTS),
            "PYTHONPATH": str(HERE.parent),
        }
        return Command([sys.executable, "-m", "ollama_wrap", "serve"], {**settings, **env})

    answers = "far" if upstream == FAR else "bench"
    node = answers if env.get("OLLAMA_DISTRIBUTED") == "true" else None
    return Candidate(command, upstream, special=special, ours=True, node=node)


def node(name: str, port: int) -> str:
    return f"{name}=http://127.0.0.1:{port};slots={SLOTS}"


def configured(template: str, program: str, *arguments: str) -> Candidate:
    """A program with a configuration file; @FILE@ and @DIR@ in its arguments."""

    def command(folder: Path, port: int) -> Command:
        text = (HERE / "baseline" / template).read_text()
        upstream = f"127.0.0.1:{LOCAL}"
        for mark, value in (("PORT", str(port)), ("UPSTREAM", upstream), ("DIR", str(folder))):
            text = text.replace(f"@{mark}@", value)
        written = folder / template
        written.write_text(text)
        marks = (("@FILE@", str(written)), ("@DIR@", str(folder)))
        filled = list(arguments)
        for mark, value in marks:
            filled = [argument.replace(mark, value) for argument in filled]
        return Command([find(program) or program, *filled], {})

    return Candidate(command)


def _go(folder: Path, port: int) -> Command:
    program = folder.parent / "goproxy"
    return Command([str(program), str(port), f"127.0.0.1:{LOCAL}"], {"GOMAXPROCS": "1"})


def _starlette_httpx(_: Path, port: int) -> Command:
    uvicorn = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE / "baseline")]
    quiet = ["--no-access-log", "--log-level", "warning", "--port", str(port)]
    return Command([*uvicorn, *quiet, "starlette_httpx:app"], {"UPSTREAM": f"127.0.0.1:{LOCAL}"})


_FAR = node("far", FAR)
_TWENTY = ",".join(node(f"n{i}", MANY + i) for i in range(OTHERS))

CANDIDATES: Mapping[str, Candidate] = {
    "wrap": sidecar(OLLAMA_DISTRIBUTED="false"),
    "wrap-distributed": sidecar(OLLAMA_DISTRIBUTED="true", OLLAMA_WRAP_NODES=_FAR),
    "wrap-remote": sidecar(
        upstream=FAR,
        OLLAMA_DISTRIBUTED="true",
        OLLAMA_WRAP_NODES=_FAR,
        OLLAMA_WRAP_ROUTING="remote-first",
    ),
    "wrap-20-nodes": sidecar(OLLAMA_DISTRIBUTED="true", OLLAMA_WRAP_NODES=_TWENTY),
    "wrap-quiet": sidecar(
        OLLAMA_DISTRIBUTED="true", OLLAMA_WRAP_NODES=_FAR, OLLAMA_WRAP_LOG_LEVEL="error"
    ),
    "wrap-dead-node": sidecar(
        special=True,
        OLLAMA_DISTRIBUTED="true",
        OLLAMA_WRAP_NODES=",".join((_FAR, node("gone", GONE), node("mute", MUTE))),
    ),
    "nginx": configured("nginx.conf", "nginx", "-p", "@DIR@", "-c", "@FILE@"),
    "haproxy": configured("haproxy.cfg", "haproxy", "-f", "@FILE@", "-q"),
    "go": Candidate(_go),
    "c1": Candidate(_starlette_httpx),
    "direct": Candidate(None),
}
#: what is measured when nobody names candidates
USUAL = tuple(name for name, one in CANDIDATES.items() if not one.special)
