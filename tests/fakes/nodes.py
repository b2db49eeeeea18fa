"""Upstreams, fleets and calls as tests want them: a word for each thing that matters.

A node is UP and has listed its models unless a test says otherwise; digests are
the model's name unless they are given.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from random import Random

from ollama_wrap.call import Call, Mode
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.nodes.health import Health, NodeState
from ollama_wrap.nodes.inventory import Inventory, Loaded, Model
from ollama_wrap.nodes.names import canonical
from ollama_wrap.nodes.node import local_node, parse_nodes
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.nodes.verdict import Blame, Verdict

NOW = 1_000.0
WALL = 1_700_000_000.0
NODE_FAILED = Verdict(blame=Blame.NODE)


def key(name: str) -> str:
    """The canonical name, which a test's model always has."""
    found = canonical(name)
    assert found is not None
    return found


def listed(models: Iterable[str] | Mapping[str, str], loaded: Iterable[str] = ()) -> Inventory:
    """What a node lists: names, or names with digests."""
    digests = models if isinstance(models, Mapping) else {name: name for name in models}
    entries = [Model(name, key(name), digest) for name, digest in digests.items()]
    running = [Loaded(key(name), digests.get(name, name)) for name in loaded]
    return Inventory().listed(entries, WALL).running(running)


def health(state: NodeState) -> Health:
    """A Health in this state since `NOW`."""
    base = Health(probed=NodeState.UP, since=NOW, since_wall=WALL, ever_answered=True)
    base = replace(base, served=True, last_seen=NOW, last_seen_wall=WALL, opened=NOW, greeted=True)
    if state is NodeState.DRAINING:
        return replace(base, drain=True)
    return replace(base, probed=state)


def upstream(
    text: str,
    models: Iterable[str] | Mapping[str, str] = ("m",),
    *,
    loaded: Iterable[str] = (),
    state: NodeState = NodeState.UP,
    slots: int | None = None,
) -> Upstream:
    """A node from its entry in OLLAMA_WRAP_NODES, such as `r1=h1;priority=1`; `local`: ours."""
    if text == "local":
        node = local_node("tower", "http://127.0.0.1:11436", slots)
    else:
        (node,) = parse_nodes(text if slots is None else f"{text};slots={slots}")
    made = Upstream(node, dice=Random(1))
    made.health = health(state)
    made.inventory = listed(models, loaded)
    return made


def fleet(local: Upstream, *others: Upstream, mode: Mode = Mode.DISTRIBUTED) -> Fleet:
    return Fleet(mode, "setting", local, others)


def call(
    model: str | None = "m", *, mode: Mode = Mode.DISTRIBUTED, operation: str = "chat"
) -> Call:
    return Call(
        "id", "POST", b"/api/chat", "/api/chat", [], mode=mode, model=model, operation=operation
    )


def fill(target: Upstream, model: str = "m", calls: int = 1) -> Upstream:
    """Calls of ours run there for this model."""
    for _ in range(calls):
        target.take(key(model))
    return target


def eject(target: Upstream, at: float = NOW) -> Upstream:
    """Its circuit opens at this time."""
    for _ in range(3):
        target.record(NODE_FAILED, None, at, WALL)
    return target
