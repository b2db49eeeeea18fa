"""Every setting but those that stand alone, by the part of the program that obeys it.

One row a field: type, default as a user writes it, one sentence. This file parses
nothing and reads nothing. Durations are seconds as float, sizes bytes as int; 0 means
"off" for every limit whose sentence says so.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict

from ollama_wrap.config.table import Trait, setting
from ollama_wrap.config.values import (
    Address,
    Count,
    Listens,
    Lower,
    NodeId,
    Pairs,
    Positive,
    Seconds,
    Share,
    Size,
    Store,
)


class Group(BaseModel):
    """Settings of one part; never changed once made."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Server(Group):
    """Our own listeners, and this process."""

    listen: Listens = setting(
        "127.0.0.1:11434",
        "Where to listen: a comma list in the forms that OLLAMA_HOST takes.",
        "OLLAMA_WRAP_LISTEN",
        traits=Trait.FIXED,
    )
    api_listen: Listens | None = setting(
        None,
        "One more address to listen on.",
        "OLLAMA_WRAP_API_LISTEN",
        soft=("API_LISTEN",),
        traits=Trait.FIXED,
    )
    node_id: NodeId = setting(
        "node",
        "The id of this host among the nodes: 1 to 64 of A-Z a-z 0-9 . _ -",
        "OLLAMA_WRAP_NODE_ID",
        soft=("NODE_ID",),
        shown="the host name",
        traits=Trait.FIXED,
    )
    drain: Seconds = setting("120s", "How long running streams may go on after SIGTERM.")
    lame_duck: Seconds = setting(
        "3s", "How long new calls are still taken after SIGTERM while other sidecars use us."
    )


class Local(Group):
    """The real Ollama of this host."""

    address: Address = setting(
        "http://127.0.0.1:11436",
        "Where the real Ollama listens; it need not be up.",
        "OLLAMA_LOCAL_ADDR",
        "OLLAMA_API_URL",
    )
    models: Path | None = setting(
        None,
        "Its model folder, read only for transfers.",
        "OLLAMA_MODELS",
        shown="stock's default folder",
        traits=Trait.UNUSED,
    )


class Nodes(Group):
    """The other nodes, as written; they are read by the part that knows nodes."""

    text: Pairs = setting(
        "",
        "Other nodes: a comma list of url or id=url;kind=...;weight=...;slots=..., or JSON.",
        "OLLAMA_WRAP_NODES",
        traits=Trait.SECRET | Trait.GENTLE,
    )


class Routing(Group):
    """Which node should take a call."""

    mode: Annotated[Literal["local-first", "balanced", "remote-first"], Lower] = setting(
        "local-first", "local-first, balanced or remote-first.", "OLLAMA_WRAP_ROUTING"
    )
    strategy: str = setting(
        "auto",
        "The policy: auto, least-busy, round-robin, weighted, least-latency, two-choices, random, "
        "or module:Class.",
        "OLLAMA_WRAP_STRATEGY",
    )
    digests: Annotated[Literal["prefer", "require", "ignore"], Lower] = setting(
        "prefer",
        "Same name, other digest: prefer equal ones, require them, or ignore the difference.",
        "OLLAMA_WRAP_DIGESTS",
    )
    routes: Pairs = setting(
        "",
        "Models that go to nodes of your choice: a comma list of "
        "pattern=node;model=...;weight=...;priority=..., or JSON; docs/policies.md has all of it.",
        "OLLAMA_WRAP_ROUTES",
        traits=Trait.SECRET | Trait.GENTLE,
    )


class Client(Group):
    """Deadlines and caps towards clients; times count only while we are reading."""

    first_byte: Seconds = setting("10s", "An opened connection sends nothing: it is closed.")
    header_deadline: Seconds = setting("10s", "From the first byte to the end of the header.")
    body_idle: Seconds = setting("30s", "A body may pause this long.")
    body_min_rate: Size = setting("1KiB", "Slowest body a second, after the first 10 s.")
    body_total: Seconds = setting("0", "Longest time for a whole body; 0 is off.")
    blob_body_idle: Seconds = setting("60s", "An uploaded blob may pause this long.")
    blob_min_rate: Size = setting("16KiB", "Slowest blob a second, averaged over 60 s.")
    keepalive_idle: Seconds = setting("180s", "An idle connection is kept this long.")
    write_stall: Seconds = setting(
        "60s", "A client that takes nothing of a full buffer this long is cut off."
    )
    write_stall_once: Seconds = setting("600s", "The same for pull, push, create and the like.")
    max_head: Size = setting("64KiB", "Largest head of a request.")
    max_field: Size = setting("16KiB", "Largest header field.")
    max_fields: Count = setting("100", "Most header fields.")
    max_target: Size = setting("8KiB", "Longest request target.")
    max_connections: Count = setting(
        "12000", "Most connections; fewer where the file descriptor limit asks for it."
    )
    max_per_address: Count = setting(
        "256", "Most connections of one address; loopback, nodes and trusted proxies are free."
    )
    max_streams: Count = setting("4000", "Most calls at a time.")


class Upstream(Group):
    """Deadlines and buffers towards nodes."""

    connect_local: Seconds = setting("1s", "To connect to the local Ollama.")
    connect: Seconds = setting("2s", "To connect to another node.")
    connect_tls: Seconds = setting("4s", "To connect to another node with TLS, in all.")
    write_idle: Seconds = setting("30s", "A node that does not take our bytes this long.")
    keepalive_expiry: Seconds = setting("30s", "An idle connection to a node is kept this long.")
    list_wait: Seconds = setting("1s", "Merged lists wait this long for the local Ollama.")
    first_byte_meta: Seconds = setting("5s", "Lists and the like of another node.")
    first_byte_show: Seconds = setting("15s", "Show of another node.")
    first_byte: Seconds = setting("0", "Inference: a hard limit to the first byte; 0 is off.")
    first_byte_once: Seconds = setting("0", "The same for pull, push, create; 0 is off.")
    idle: Seconds = setting("0", "A hard limit for gaps after the first byte; 0 is off.")
    total: Seconds = setting("0", "A hard limit for a whole answer; 0 is off.")
    tcp_idle: Seconds = setting("15s", "TCP keepalive: idle time before the first question.")
    tcp_interval: Seconds = setting("5s", "TCP keepalive: time between questions.")
    tcp_count: Count = setting("3", "TCP keepalive: questions without an answer.")
    tcp_user_timeout: Seconds = setting("20s", "Sent bytes stay unacknowledged this long.")
    replay_limit: Size = setting("32MiB", "Largest body that is kept to be sent again.")
    replay_total: Size = setting("256MiB", "All kept bodies together.")
    relay_high: Size = setting("1MiB", "A stream's buffer: above this we stop reading the node.")
    relay_low: Size = setting("256KiB", "A stream's buffer: below this we read on.")
    relay_total: Size = setting("256MiB", "All streams' buffers; above it each may hold 64 KiB.")


class Retry(Group):
    """What repeating may cost."""

    attempts: Positive = setting("3", "Counted attempts a request.")
    share: Share = setting("0.2", "Counted retries at a time, as a share of running requests.")
    least: Count = setting("3", "Counted retries at a time that are always allowed.")
    backoff: Seconds = setting("50ms", "First back-off; doubles, with full jitter.")
    backoff_max: Seconds = setting("1s", "Longest back-off.")


class Queue(Group):
    """Calls that wait here for a free slot."""

    hold: Seconds = setting("60s", "How long a call waits here before it is sent on.")
    per_key: Count = setting("128", "Most waiting calls for one model.")
    total: Count = setting("512", "Most waiting calls.")


class Health(Group):
    """How nodes are watched."""

    interval: Seconds = setting("2s", "Time between probes of a node.")
    jitter: Share = setting("0.2", "How far each interval may vary, as a share of it.")
    timeout: Seconds = setting("1500ms", "A probe may take this long.")
    fast_interval: Seconds = setting("500ms", "Time between probes after the first failure.")
    fall: Positive = setting("3", "Failed probes until a node is down.")
    rise: Positive = setting("2", "Good probes until a node is up.")
    lists_sidecar: Seconds = setting("5s", "How old lists of a sidecar may get.")
    lists_plain: Seconds = setting("10s", "How old lists of a plain node may get.")
    loaded_local: Seconds = setting("5s", "How old the local list of loaded models may get.")
    joining: Seconds = setting("120s", "How long a node that accepts may not answer yet.")
    asleep_after: Seconds = setting("10m", "A node that is down this long is thought asleep.")
    asleep_interval: Seconds = setting("30s", "Time between probes of such a node.")
    warming: Seconds = setting("30s", "How long the weight of a returning node grows.")
    seen: Seconds = setting("24h", "How long we remember where a model was seen.")


class Circuit(Group):
    """When a node, or a model on it, is left alone."""

    failures: Positive = setting("3", "Failures in a row that open it.")
    share: Share = setting("0.5", "Or this share of failures,")
    attempts: Positive = setting("10", "of at least so many attempts,")
    window: Seconds = setting("30s", "within this time.")
    open: Seconds = setting("10s", "How long it stays open at first; doubles each time.")
    open_max: Seconds = setting("300s", "How long at most.")
    decay: Seconds = setting("60s", "Closed time that takes one doubling back.")
    successes: Positive = setting("2", "Successes that close it again.")
    model_failures: Positive = setting("2", "Failures of a model on a node in a row.")
    cooldown: Seconds = setting("60s", "How long that model rests there; doubles each time.")
    cooldown_max: Seconds = setting("900s", "How long at most.")


class Cache(Group):
    """Answers kept in memory, for when no node can answer."""

    enabled: bool = setting("true", "Whether answers are kept.")
    ttl: Seconds = setting("300s", "How long an answer is good.")
    max_bytes: Size = setting("64MiB", "All kept answers together.")
    max_entry: Size = setting("256KiB", "Largest answer that is kept.")


class State(Group):
    """Where shared facts are kept."""

    dir: Path = setting(
        "ollama_wrap-state",
        "Folder for what outlives a restart; one process at a time.",
        shown="the platform's folder, ending in the listen port",
        traits=Trait.FIXED,
    )
    store: Store = setting(
        "sqlite",
        "sqlite in the state folder, or memory; redis://... is not built yet: the mode is local.",
        "OLLAMA_WRAP_STORE",
        traits=Trait.SECRET | Trait.GENTLE | Trait.FIXED,
    )


class Cluster(Group):
    """Names from other programs that are accepted and shown."""

    bootstrap: bool = setting(
        "false",
        "Breaks a tie for the leader.",
        "OLLAMA_WRAP_BOOTSTRAP",
        soft=("BOOTSTRAP",),
        traits=Trait.UNUSED,
    )
    p2p_listen: str = setting(
        "/ip4/0.0.0.0/tcp/9000",
        "Accepted and shown.",
        "OLLAMA_WRAP_P2P_LISTEN",
        soft=("P2P_LISTEN",),
        traits=Trait.UNUSED,
    )
    raft_bind_addr: str = setting(
        "0.0.0.0:7000",
        "Accepted and shown.",
        "OLLAMA_WRAP_RAFT_BIND_ADDR",
        soft=("RAFT_BIND_ADDR",),
        traits=Trait.UNUSED,
    )


class Log(Group):
    """What is written to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Lower] = setting(
        "info", "debug, info, warning or error.", "OLLAMA_WRAP_LOG_LEVEL", soft=("LOG_LEVEL",)
    )
    format: Annotated[Literal["auto", "json"], Lower] = setting(
        "auto", "auto (readable on a terminal, logfmt elsewhere) or json."
    )
