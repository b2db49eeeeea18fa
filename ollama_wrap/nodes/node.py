"""Node: a server that can answer, as somebody declared it; and how declarations are written.

Owns the value and the two forms of `OLLAMA_WRAP_NODES`. It must not know how a
node is doing, and it resolves no names.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from ollama_wrap.call import Header
from ollama_wrap.config.values import DEFAULT_PORT, NODE_ID, RESERVED_IDS
from ollama_wrap.errors import ConfigError

VARIABLE = "OLLAMA_WRAP_NODES"

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?")
_FIELD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PREFIX = re.compile(r"[\x21-\x7e]*")
#: framing belongs to the connection, `Host` to the node's address
_OUR_HEADERS = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)

Fields = dict[str, Any]


class NodeKind(StrEnum):
    """The sort of server a node is."""

    OLLAMA = "ollama"
    SGLANG = "sglang"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class Node:
    """A server that can answer, as declared.

    `host` is lower case and without brackets; `prefix` is empty or `/path`
    without a last slash. A lower `priority` is tried first. `slots` is what it
    can run at once for one loaded model, `ctx` tokens; None: not declared.
    """

    id: str
    scheme: str
    host: str
    port: int
    prefix: str = ""
    kind: NodeKind = NodeKind.OLLAMA
    weight: int = 100
    priority: int = 0
    slots: int | None = None
    #: `models=`: only names that match one of these are asked of it; empty: all
    patterns: tuple[str, ...] = ()
    ctx: int | None = None
    #: sent to it with each request; may be secrets
    headers: tuple[Header, ...] = field(default=(), repr=False)
    local: bool = False

    @property
    def authority(self) -> str:
        """`host:port`, as a Host header says it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def place(self) -> tuple[object, ...]:
        """What makes it this server and no other: what was learned holds as long as this."""
        return self.scheme, self.host, self.port, self.prefix, self.kind, self.local

    @property
    def address(self) -> str:
        """`http://host:port/prefix`, for people and for our own clients."""
        return f"{self.scheme}://{self.authority}{self.prefix}"


def local_node(node_id: str, address: str, slots: int | None) -> Node:
    """The Ollama of this host; `slots` is None where nobody set them. Raises ConfigError."""
    try:
        return Node(id=node_id, slots=slots, local=True, **_address(address))
    except ValueError as error:
        raise ConfigError([f"OLLAMA_LOCAL_ADDR: {address!r}: {error}"]) from None


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Read `OLLAMA_WRAP_NODES`: a comma list of `url` or `id=url;name=value;…`, or a JSON list.

    JSON entries are strings of the same form, or objects with the keys `id`,
    `url` and the option names. Entries with one id or one address are one node:
    what an earlier one says holds. Raises ConfigError with every problem.
    """
    problems: list[str] = []
    found: list[Fields] = []
    for number, entry in enumerate(_entries(text, problems), start=1):
        try:
            found.append(_declared(_split(entry) if isinstance(entry, str) else entry))
        except ValueError as error:
            problems.append(f"{VARIABLE}: entry {number}: {error}")
    if problems:
        raise ConfigError(problems)
    return tuple(Node(**_named(fields)) for fields in _merged(found))


def _entries(text: str, problems: list[str]) -> list[Any]:
    text = text.strip()
    # An IPv6 address begins like a JSON list.
    if not text.startswith(("[", "{")) or re.match(r"\[[0-9a-fA-F]*:[0-9a-fA-F:.]*\]", text):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        problems.append(f"{VARIABLE}: starts like JSON and is none")
        return []
    return value if isinstance(value, list) else [value]


def _split(entry: str) -> Fields:
    """`id=url;name=value` as a mapping; a repeated option becomes a list."""
    first, *options = (part.strip() for part in entry.split(";"))
    name, equals, url = first.partition("=")
    fields: Fields = {"id": name, "url": url} if equals and "://" not in name else {"url": first}
    for option in filter(None, options):
        key, equals, value = option.partition("=")
        if not equals:
            raise ValueError(f"{option!r} has no value; write name=value")
        if key == "header":
            fields.setdefault(key, []).append(value)
        elif key in fields:
            raise ValueError(f"{key!r} is there twice")
        else:
            fields[key] = value
    return fields


def _declared(entry: object) -> Fields:
    """The fields of a Node that one entry says; raises ValueError."""
    said = entry if isinstance(entry, Mapping) else {}
    if "url" not in said:
        raise ValueError("write a url, or an object with one")
    fields: Fields = {}
    for key, value in said.items():
        read = _OPTIONS.get(key)
        if read is None:
            raise ValueError(f"{key!r} is no option; there are {', '.join(sorted(_OPTIONS))}")
        fields |= read(value)
    return fields


def _merged(found: Iterable[Fields]) -> list[Fields]:
    nodes: list[Fields] = []
    for fields in found:
        same = [node for node in nodes if _same(node, fields)]
        for node in same[1:]:
            # An entry may join two that had nothing in common: by id the one, by address the other.
            same[0].update({**node, **same[0]})
            nodes.remove(node)
        if same:
            same[0].update({**fields, **same[0]})
        else:
            nodes.append(dict(fields))
    return nodes


def _same(one: Fields, other: Fields) -> bool:
    place = ("scheme", "host", "port", "prefix")
    return all(one[key] == other[key] for key in place) or (
        "id" in one and one["id"] == other.get("id")
    )


def _named(fields: Fields) -> Fields:
    """Give a node without an id that of its host, port and path."""
    text = f"{fields['host']}-{fields['port']}{fields['prefix']}"
    return {"id": re.sub(r"[^A-Za-z0-9._-]", "-", text)[:64], **fields}


def _address(value: object) -> Fields:
    """Scheme, host, port and prefix, with the default ports of `OLLAMA_HOST`."""
    text = str(value).strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = (parts.hostname or "").rstrip("."), parts.port
        bare = ipaddress.IPv6Address(host) if ":" in host else None
    except ValueError as error:
        raise ValueError(f"is no address that can be read ({error})") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"scheme {parts.scheme!r} is not spoken; write http:// or https://")
    if parts.username is not None:
        raise ValueError("leave user and password out of the url; there is header=Name:value")
    if bare is None and not _HOST.fullmatch(host):
        raise ValueError("has no host name or address before its port")
    if parts.query or parts.fragment or not _PREFIX.fullmatch(parts.path):
        raise ValueError("may end in a path, not in a query, a fragment or spaces")
    default = _PORTS[parts.scheme] if "://" in text else DEFAULT_PORT
    return {
        "scheme": parts.scheme,
        "host": str(bare) if bare is not None else host,
        "port": default if port is None else port,
        "prefix": parts.path.rstrip("/"),
    }


def _id(value: object) -> Fields:
    text = str(value).strip()
    if not NODE_ID.fullmatch(text) or text.lower() in RESERVED_IDS:
        raise ValueError(
            f"id {text!r}: write 1 to 64 of A-Z a-z 0-9 . _ -, and none of {sorted(RESERVED_IDS)}"
        )
    return {"id": text}


def _kind(value: object) -> Fields:
    try:
        return {"kind": NodeKind(str(value).strip().lower())}
    except ValueError:
        raise ValueError(f"kind {value!r}: there are {', '.join(NodeKind)}") from None


def whole(name: str, least: int, most: int) -> Callable[[object], Fields]:
    """What reads the option `name`, a whole number; it raises ValueError."""

    def read(value: object) -> Fields:
        text = str(value).strip()
        if not re.fullmatch(r"-?[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"{name} {text[:40]!r}: write a whole number, {least} to {most}")
        return {name: int(text)}

    return read


def _models(value: object) -> Fields:
    parts = value if isinstance(value, list) else str(value).split("|")
    return {"patterns": tuple(str(part).strip().lower() for part in parts if str(part).strip())}


def _headers(value: object) -> Fields:
    if isinstance(value, Mapping):
        pairs = [(str(name), str(text)) for name, text in value.items()]
    else:
        lines = value if isinstance(value, list) else [value]
        pairs = [(name, text) for name, _, text in (str(line).partition(":") for line in lines)]
    for name, text in pairs:
        # The value may be a secret, so no message repeats it.
        if not _FIELD.fullmatch(name.strip()) or not _VALUE.fullmatch(text):
            raise ValueError("header: write Name:value")
        if name.strip().lower() in _OUR_HEADERS:
            raise ValueError(f"header {name.strip()} is not yours to set")
    return {
        "headers": tuple(
            (name.strip().encode(), text.strip().encode("latin-1")) for name, text in pairs
        )
    }


_OPTIONS: dict[str, Callable[[object], Fields]] = {
    "id": _id,
    "url": _address,
    "kind": _kind,
    "weight": whole("weight", 1, 10_000),
    "priority": whole("priority", -1_000, 1_000),
    "slots": whole("slots", 1, 65_536),
    "models": _models,
    "ctx": whole("ctx", 1, 100_000_000),
    "header": _headers,
}
