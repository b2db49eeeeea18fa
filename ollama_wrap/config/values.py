"""How single values of settings are written, and what they become. Knows no setting's name.

Every parser raises ValueError with a sentence that says what would be right.
"""

import ipaddress
import json
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

DEFAULT_PORT = 11434
ANY_HOSTS = frozenset({"0.0.0.0", "::"})  # noqa: S104  compared with, not bound to
RESERVED_IDS = frozenset({"all", "true", "false", "auto", "remote", "local"})
_APP_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on; `host` is a name or an address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    def reaches(self, host: str, port: int) -> bool:
        """Whether a connection to `host` and `port` on this machine would arrive here."""
        if port != self.port:
            return False
        if self.host in ANY_HOSTS:
            return is_loopback(host) or host in ANY_HOSTS
        return self.host == host or {self.host, host} in (
            {"localhost", "127.0.0.1"},
            {"localhost", "::1"},
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine's loopback interface."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def parse_seconds(value: object) -> object:
    """`10`, `0.5`, `10s`, `250ms`, `5m`, `1h30m` as seconds."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    try:
        return float(text)
    except ValueError:
        pass
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("write seconds, or a duration such as 250ms, 10s, 5m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_size(value: object) -> object:
    """`1048576`, `64KiB`, `32MiB`, `1.5GiB`, `10MB` as bytes."""
    if not isinstance(value, str):
        return value
    found = _SIZE.fullmatch(value.strip().lower())
    if found is None or found[2] not in _SIZES:
        raise ValueError("write bytes, or a size such as 64KiB, 32MiB or 1GiB")
    return int(float(found[1]) * _SIZES[found[2]])


def parse_listen(text: str) -> Listen:
    """One address in the forms that OLLAMA_HOST takes: `host`, `:port`, `[::1]:port`, a URL."""
    scheme, mark, rest = text.strip().strip("\"'").rpartition("://")
    if scheme.lower() == "https":
        raise ValueError(
            "this program does not speak TLS on its own listener; put a proxy that does before it"
        )
    if mark and scheme.lower() != "http":
        raise ValueError(f"{scheme!r} is no scheme to listen with; write host:port")
    host, port = _host_port(rest.partition("/")[0], 80 if mark else DEFAULT_PORT)
    return Listen(host or "0.0.0.0", port)  # noqa: S104  as stock: a bare :port listens everywhere


def _host_port(text: str, default: int) -> tuple[str, int]:
    if text.count(":") > 1 and not text.startswith("["):
        return str(ipaddress.IPv6Address(text)), default
    host, bracket, tail = text.rpartition("]") if text.startswith("[") else ("", "", text)
    if bracket:
        host, (between, colon, digits) = host[1:], tail.partition(":")
        ipaddress.IPv6Address(host)
        if between:
            raise ValueError("write IPv6 addresses as [::1]:11434")
    else:
        host, colon, digits = tail.partition(":")
    if not colon:
        return host or "127.0.0.1", default
    if not digits.isascii() or not digits.isdigit() or int(digits) > 65535:
        raise ValueError(f"{digits!r} is no port; write host:port with a port up to 65535")
    return host, int(digits)


def parse_listens(value: object) -> object:
    """A comma list of addresses, without repeats."""
    found = [one if isinstance(one, Listen) else parse_listen(str(one)) for one in split(value)]
    if not found:
        raise ValueError("write at least one address, such as 127.0.0.1:11434")
    return tuple(dict.fromkeys(found))


def parse_address(value: object) -> object:
    """Where an Ollama is, as `http(s)://host:port` and its path without the last slash."""
    text = str(value).strip().strip("\"'")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, SplitResult("", "", "", "", "")
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        raise ValueError("write where the real Ollama listens, such as http://127.0.0.1:11436")
    if parts.username is not None:
        raise ValueError("leave user and password out of the address")
    if port is None:
        port = DEFAULT_PORT if "://" not in text else {"http": 80, "https": 443}[parts.scheme]
    # A server binds to every address, but nobody can connect to that.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{port}{parts.path.rstrip('/')}"


def parse_node_id(text: str) -> str:
    if NODE_ID.fullmatch(text) is None:
        raise ValueError("write 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    if text.lower() in RESERVED_IDS:
        raise ValueError(f"{text!r} has a meaning of its own; choose another id")
    return text


def node_id_of(hostname: str) -> str:
    """A host name cut to what an id may be."""
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", hostname)[:64].strip("-")
    return f"node-{text}"[:64] if not text or text.lower() in RESERVED_IDS else text


def with_stock_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """The list as stock builds it: its own entries after the configured ones."""
    hosts = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104  part of an origin
    web = [
        f"{scheme}://{host}{port}"
        for host in hosts
        for port in ("", ":*")
        for scheme in ("http", "https")
    ]
    apps = [f"{scheme}://*" for scheme in _APP_SCHEMES]
    return tuple(dict.fromkeys([*origins, *web, *apps]))


def parse_networks(value: object) -> object:
    """A comma list of addresses and networks."""
    try:
        return tuple(ipaddress.ip_network(str(one), strict=False) for one in split(value))
    except ValueError:
        raise ValueError("write addresses or networks, such as 10.0.0.5 or 10.0.0.0/24") from None


def split(value: object) -> tuple[object, ...]:
    """A comma list, or a list from YAML; empty members are dropped."""
    if isinstance(value, str):
        return tuple(one.strip() for one in value.split(",") if one.strip())
    if isinstance(value, list | tuple):
        return tuple(value)
    raise ValueError("write a list with commas between")


def parse_text(value: object) -> object:
    """Text as it is; what YAML made a list or a mapping becomes JSON text."""
    return value if isinstance(value, str) else json.dumps(value)


def certificates(path: Path) -> Path:
    """A file of certificates that TLS can use: better found out now than by the first call."""
    if not path.is_file():
        raise ValueError("no such file; write the path of one that this user can read")
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:
        raise ValueError(f"holds no certificates that can be read ({error})") from None
    return path


def lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def parse_store(text: str) -> str:
    if text in {"sqlite", "memory"} or text.startswith(("redis://", "rediss://")):
        return text
    raise ValueError("write sqlite, memory, or redis://host:port/0")


Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(ge=0, allow_inf_nan=False)]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Slots = Annotated[int, Field(ge=0), AfterValidator(lambda slots: slots or None)]
Share = Annotated[float, Field(ge=0, le=1)]
Listens = Annotated[tuple[Listen, ...], BeforeValidator(parse_listens)]
Address = Annotated[str, BeforeValidator(parse_address)]
NodeId = Annotated[str, AfterValidator(parse_node_id)]
Names = Annotated[tuple[str, ...], BeforeValidator(split)]
Origins = Annotated[tuple[str, ...], BeforeValidator(split), AfterValidator(with_stock_origins)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(parse_networks)]
Pairs = Annotated[str, BeforeValidator(parse_text)]
Store = Annotated[str, AfterValidator(parse_store)]
Certificates = Annotated[Path, AfterValidator(certificates)]
Lower = BeforeValidator(lower)
