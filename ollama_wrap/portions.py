"""What each part gets of the settings. Pure: settings in, the values of one part out.

Knows every setting by name and what it is for; must not hold parts, nor build any.
"""

from collections.abc import Callable, Iterable

from ollama_wrap.api.guards import Rules
from ollama_wrap.cluster.choices import Overridable
from ollama_wrap.config import Settings
from ollama_wrap.nodes.fleet import Fleet
from ollama_wrap.proxy.admit import Hold
from ollama_wrap.proxy.budget import Allowance
from ollama_wrap.proxy.limits import Waits
from ollama_wrap.wire.guard import Limits, Upload, affordable
from ollama_wrap.wire.head import Sizes
from ollama_wrap.wire.pool import Alive
from ollama_wrap.wire.pools import Times


def overridable(settings: Settings) -> Overridable:
    """What an operator's choices stand above."""
    return Overridable(settings.distributed, settings.standalone, settings.fallback)


def times(settings: Settings) -> Times:
    """What pools of connections go by."""
    up = settings.upstream
    alive = Alive(up.tcp_idle, up.tcp_interval, up.tcp_count, up.tcp_user_timeout)
    return Times(up.connect_local, up.connect, up.connect_tls, up.keepalive_expiry, alive)


def waits(settings: Settings) -> Waits:
    """How long attempts wait for what."""
    up = settings.upstream
    return Waits(
        up.first_byte_meta,
        up.first_byte_show,
        up.first_byte,
        up.first_byte_once,
        up.write_idle,
        up.idle,
        up.total,
    )


def allowance(settings: Settings) -> Allowance:
    """What repeating may cost."""
    retry, up = settings.retry, settings.upstream
    return Allowance(
        retry.attempts,
        retry.share,
        retry.least,
        up.replay_limit,
        up.replay_total,
        retry.backoff,
        retry.backoff_max,
    )


def hold(settings: Settings) -> Hold:
    """How many calls wait here, and how long."""
    queue = settings.queue
    return Hold(queue.hold, queue.per_key, queue.total)


def limits(settings: Settings, files: int | None) -> Limits:
    """What a client may take; `files`: how many may be open here, None: any number."""
    client, up = settings.client, settings.upstream
    return Limits(
        first_byte=client.first_byte,
        header_deadline=client.header_deadline,
        body=Upload(client.body_idle, client.body_min_rate, 10.0),
        blob=Upload(client.blob_body_idle, client.blob_min_rate, 60.0),
        body_total=client.body_total,
        keepalive_idle=client.keepalive_idle,
        write_stall=client.write_stall,
        write_stall_once=client.write_stall_once,
        connections=affordable(client.max_connections, files),
        connections_per_address=client.max_per_address,
        streams=client.max_streams,
        sizes=Sizes(client.max_head, client.max_field, client.max_target, client.max_fields),
        marks=(up.relay_high, min(up.relay_low, up.relay_high)),
        buffered=up.relay_total,
    )


def rules(
    settings: Settings, fleet: Fleet, hostname: str, machine: Callable[[], frozenset[str]]
) -> Rules:
    """What the door goes by; `hostname` and `machine` as `Rules` has them."""
    token, local = settings.admin_token, fleet.local.node
    return Rules(
        listeners=tuple(map(str, settings.server.listen)),
        origins=settings.origins,
        allowed_hosts=frozenset(settings.allowed_hosts),
        node_hosts=frozenset(_hosts(fleet)),
        trusted_proxies=settings.trusted_proxies,
        protect=settings.protect,
        admin_token=token.get_secret_value() if token is not None else None,
        tokens=settings.jwt_secret is not None,
        local_loopback=local.host in {"localhost", "::1"} or local.host.startswith("127."),
        hostname=hostname,
        machine=machine,
    )


def _hosts(fleet: Fleet) -> Iterable[str]:
    return (one.node.host for one in fleet.others)
