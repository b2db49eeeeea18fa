"""What is said at start: where it listens, which Ollama it found, the mode, the nodes.

Waits for what the prober finds, a short while; must not know how anything is asked.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ollama_wrap import __version__
from ollama_wrap.call import Mode
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.health import NodeState
from ollama_wrap.nodes.mode import ModeReason
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.observe import log
from ollama_wrap.runtime import Runtime

#: seconds that the first answers of nodes are waited for
PATIENCE = 1.8
_LOOK_EVERY = 0.05
#: nodes that are named one by one
_NAMED = 8

_REASONS: Mapping[str, str] = {
    ModeReason.ADMIN: "an operator chose it",
    ModeReason.NO_NODES: "no other node is set",
    ModeReason.NO_NODE_ANSWERS: "no other node answers",
}
_SETTINGS: Mapping[Mode, str] = {
    Mode.DISTRIBUTED: "other nodes are set",
    Mode.LOCAL: "OLLAMA_DISTRIBUTED is false",
    Mode.STANDALONE: "OLLAMA_STANDALONE is true",
}


async def greet(runtime: Runtime) -> None:
    """Log the line of the start when the nodes have been asked once, or did not answer in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await runtime.prober.first_round.wait()
            # The fleet may be replaced while we wait.
            while not _asked(runtime.fleets.current):
                await runtime.clock.sleep(_LOOK_EVERY)
    told = log.get(__name__)
    told.info(start_line(runtime))
    local = runtime.fleets.current.local
    if not local.health.ever_answered:
        told.warning(
            f"no Ollama answers at {local.node.address}; the sidecar runs all the same, and finds "
            f"it when it starts. To see it work without one: {command('demo')}"
        )


def start_line(runtime: Runtime) -> str:
    """Where it listens, which Ollama it found, mode, nodes: one line, in plain ASCII."""
    fleet = runtime.fleets.current
    listen = ", ".join(f"http://{one}" for one in runtime.settings.server.listen)
    local = fleet.local
    version = local.inventory.version if local.health.ever_answered else None
    found = f"Ollama {version}" if version else "no Ollama"
    nodes = "none" if not fleet.others else _nodes(fleet, runtime.clock.monotonic())
    return (
        f"ollama-wrap {__version__} on {listen}, {found} at {local.node.address}, "
        f"mode {fleet.mode} ({_why(runtime)}), nodes: {nodes}"
    )


def command(name: str) -> str:
    """How a command is started here: by make in a checkout."""
    checkout = (Path(__file__).parents[2] / "Makefile").is_file()
    return f"make {'run' if name == 'serve' else name}" if checkout else f"ollama-wrap {name}"


def _why(runtime: Runtime) -> str:
    fleet = runtime.fleets.current
    if runtime.problems:
        return "nodes or routes or the store cannot be used"
    return _REASONS.get(fleet.reason) or _SETTINGS[fleet.mode]


def _nodes(fleet: Fleet, now: float) -> str:
    states = [one.state_word(now) for one in fleet.others]
    # A line with twenty names is read by nobody.
    if len(states) > _NAMED:
        counts = Counter(states).most_common()
        return ", ".join(f"{count} {state}" for state, count in counts)
    named = zip(fleet.others, states, strict=True)
    return ", ".join(f"{one.node.id} {state}" for one, state in named)


def _asked(fleet: Fleet) -> bool:
    """Whether every node that is asked at all has a state by now."""
    waiting = fleet.reason == ModeReason.NO_NODE_ANSWERS
    used = fleet.others if waiting or fleet.mode is Mode.DISTRIBUTED else ()
    return all(map(_known, (fleet.local, *used)))


def _known(upstream: Upstream) -> bool:
    local = upstream.node.local and (upstream.health.ever_answered or upstream.health.fails)
    return bool(local) or upstream.health.probed is not NodeState.JOINING
