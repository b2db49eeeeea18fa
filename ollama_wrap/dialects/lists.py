"""The lists of stock: read from a node, and written merged as stock would write them.

Entries stay the bytes a node wrote: numbers, unknown keys and escapes pass as they
are, and a last key `nodes` says who has the model. It must not know how lists are
asked for, nor which entry of a name is taken.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from ollama_wrap.dialects.gojson import quoted

#: an entry as a node wrote it, and the ids of the nodes that have it
Listed = tuple[bytes, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of a node's list; what the list does not say is empty, `size_vram` None.

    Sizes are bytes, `expires` is the text of `expires_at`; `remote`: a stub whose
    weights are elsewhere; `raw` is the entry itself.
    """

    name: str
    digest: str = ""
    size: int = 0
    remote: bool = False
    expires: str = ""
    size_vram: int | None = None
    raw: bytes = b""


# What is read of an entry in any of the lists; all else stays in its bytes.
class _Entry(msgspec.Struct):
    id: str = ""
    name: str = ""
    model: str = ""
    digest: str = ""
    size: int = 0
    remote_host: str = ""
    modified_at: str = ""
    expires_at: str = ""
    size_vram: int | None = None
    created: int | None = None


class _Native(msgspec.Struct):
    models: list[msgspec.Raw] | None


class _OpenAI(msgspec.Struct):
    data: list[msgspec.Raw] | None


_entry = msgspec.json.Decoder(_Entry)
_native = msgspec.json.Decoder(_Native)
_openai = msgspec.json.Decoder(_OpenAI)


def read_tags(text: bytes) -> tuple[Entry, ...]:
    """The entries of `/api/tags`; ValueError where it is no such list."""
    try:
        return _entries(_native.decode(text).models)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a list of models: {error}") from error


# The same shape; `expires_at` and `size_vram` are only there.
read_ps = read_tags


def read_models(text: bytes) -> tuple[Entry, ...]:
    """The entries of `/v1/models`; ValueError where it is no such list."""
    try:
        return _entries(_openai.decode(text).data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not a list of models: {error}") from error


def tags(entries: Iterable[Listed]) -> bytes:
    """The body of `/api/tags`, modified last listed first."""
    return _written(entries, lambda entry: _seconds(entry.modified_at))


def ps(entries: Iterable[Listed]) -> bytes:
    """The body of `/api/ps`, longest remaining listed first."""
    return _written(entries, lambda entry: _seconds(entry.expires_at))


def models(entries: Iterable[Listed]) -> bytes:
    """The body of `/v1/models`, made of entries of either list, in the order of `/api/tags`."""
    rows = []
    for raw, nodes in entries:
        entry = _entry.decode(raw)
        name = entry.id or entry.model or entry.name
        created = entry.created or _seconds(entry.modified_at)
        row = (
            f'{{"id":{quoted(name)},"object":"model","created":{created},'
            f'"owned_by":{quoted(_namespace(name))}}}'
        ).encode()
        rows.append((created, extended(row if not entry.id else raw, "nodes", _ids(nodes))))
    rows.sort(key=lambda row: -row[0])
    # An empty list is null here, as a nil slice of Go is.
    listed = b"[" + b",".join(row for _, row in rows) + b"]" if rows else b"null"
    return b'{"object":"list","data":' + listed + b"}\n"


def extended(text: bytes, key: str, value: str) -> bytes:
    """The JSON object `text` with one more key, whose `value` is JSON, at its end."""
    # Without the last brace.
    head = text.rstrip()[:-1].rstrip()
    comma = "" if head == b"{" else ","
    return head + f"{comma}{quoted(key)}:{value}}}".encode()


def _entries(raws: list[msgspec.Raw] | None) -> tuple[Entry, ...]:
    entries = []
    for raw in raws or ():
        entry = _entry.decode(raw)
        name = entry.name or entry.model or entry.id
        if name:
            entries.append(
                Entry(
                    name,
                    entry.digest,
                    entry.size,
                    bool(entry.remote_host),
                    entry.expires_at,
                    entry.size_vram,
                    bytes(raw),
                )
            )
    return tuple(entries)


def _written(entries: Iterable[Listed], key: Callable[[_Entry], int]) -> bytes:
    rows = [
        (key(_entry.decode(raw)), extended(raw, "nodes", _ids(nodes))) for raw, nodes in entries
    ]
    # Stable, as stock's sort: equals stay in the order they came in.
    rows.sort(key=lambda row: -row[0])
    return b'{"models":[' + b",".join(row for _, row in rows) + b"]}"


def _ids(nodes: Sequence[str]) -> str:
    return f"[{','.join(map(quoted, nodes))}]"


def _namespace(name: str) -> str:
    place, slash, _ = name.rpartition("/")
    return place.rpartition("/")[2] if slash else "library"


def _seconds(text: str) -> int:
    # Stock compares whole Unix seconds; what is no date sorts last.
    try:
        return int(datetime.fromisoformat(text).timestamp() // 1)
    except (ValueError, OverflowError):
        return 0
