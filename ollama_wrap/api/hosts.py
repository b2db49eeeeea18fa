"""Which Host a request may name: stock Ollama's rule, and the list of our own routes.

Pure: names and addresses in, yes or no out. It must not know calls, headers or
settings. Stock's rule is that of its server/routes.go (`allowedHostsMiddleware`).
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

_PRIVATE = tuple(
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
#: endings that stock takes as meant for this network
_LOCAL_ENDINGS = (".localhost", ".local", ".internal")


def split(value: str) -> tuple[str, str]:
    """Host and port of a Host header as Go's `net.SplitHostPort` sees them.

    The port is not looked at; where Go finds fault, all of `value` is the host.
    """
    before, colon, port = value.rpartition(":")
    if before.startswith("[") and before.endswith("]"):
        before = before[1:-1]
    # An IPv6 address without brackets: Go takes it as no port at all.
    elif ":" in before:
        return value, ""
    if not colon or any(mark in before + port for mark in "[]"):
        return value, ""
    return before, port


def bare(value: str) -> str:
    """The host of `host`, `host:port`, `[v6]` or `[v6]:port`, in lower case, without brackets."""
    return split(value)[0].removeprefix("[").removesuffix("]").lower()


def address(text: str) -> Address | None:
    """An IP address, None for a name; IPv4 in IPv6 becomes IPv4."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_loopback(text: str) -> bool:
    """Whether a name or address, without a port, means this machine's loopback interface."""
    found = address(text)
    return text.lower() == "localhost" if found is None else found.is_loopback


def is_private(text: str) -> bool:
    """Whether `text` is an address of RFC 1918 or fc00::/7."""
    found = address(text)
    return found is not None and any(found in network for network in _PRIVATE)


def stock_accepts(value: str, hostname: str, machine: Collection[str]) -> bool:
    """Whether a stock Ollama bound to loopback takes this Host header.

    `machine` has the addresses of this machine's interfaces, `hostname` its name as
    the system says it. Where a name is taken, the check goes by the name's ending.
    """
    host, _ = split(value)
    found = address(host)
    if found is not None and (
        found.is_loopback or found.is_unspecified or is_private(host) or str(found) in machine
    ):
        return True
    host = host.lower()
    return host in {"", "localhost", hostname.lower()} or host.endswith(_LOCAL_ENDINGS)


def ours_accept(value: str, machine: Collection[str], allowed: Collection[str]) -> bool:
    """Whether our own routes take this Host header.

    `machine` has this machine's names and addresses, `allowed` the names that settings
    add (`*`: all). No Host at all is no browser's request and passes.
    """
    host = bare(value)
    if host == "" or "*" in allowed or host in allowed or host in machine:
        return True
    found = address(host)
    if found is not None:
        return found.is_loopback or is_private(host) or str(found) in machine
    return host == "localhost" or host.endswith(".localhost")


def loopback_bound(listener: str, listeners: Iterable[str]) -> bool:
    """Whether the socket behind `listener` is bound to loopback; so is one nobody knows.

    `listener` is the address that a connection came in on, with its port where that is
    known; `listeners` are the bound addresses, each `host:port`.
    """
    host, port = bare(listener), split(listener)[1]
    bound = {bare(one) for one in listeners if port in {"", split(one)[1]}}
    found = address(host)
    if found is None:
        return host not in bound or is_loopback(host)
    if str(found) in bound:
        return found.is_loopback
    # Bound to all addresses, loopback is one of them.
    everywhere = any(getattr(address(one), "is_unspecified", False) for one in bound)
    return found.is_loopback and not everywhere
