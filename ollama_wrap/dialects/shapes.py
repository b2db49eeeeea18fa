"""The two shapes of a native answer, made of one another: lines, and one object.

What stock does in server/routes.go: an answer in one piece is the last line of the
stream with the texts of all lines in it, and its lists put one behind the other.
Values stay the bytes that the node wrote. It must not know why the other shape is
wanted.
"""

from collections.abc import Iterable, Sequence

import msgspec

_Object = dict[str, msgspec.Raw]

#: the keys of api/types.go in the order of Go's structs, for what is added to an object
_ORDER = {
    "generate": "model remote_model remote_host created_at response thinking done done_reason"
    " context total_duration load_duration prompt_eval_count prompt_eval_duration eval_count"
    " eval_duration tool_calls _debug_info logprobs",
    "chat": "model remote_model remote_host created_at message done done_reason _debug_info"
    " logprobs total_duration load_duration prompt_eval_count prompt_eval_duration eval_count"
    " eval_duration",
    "message": "role content thinking images tool_calls tool_name tool_call_id",
}
_PLACES = {name: {key: at for at, key in enumerate(keys.split())} for name, keys in _ORDER.items()}
_TEXTS = ("response", "content", "thinking")
_LISTS = ("tool_calls", "logprobs")
#: what the lines before the last one have
_EARLY = frozenset({"model", "remote_model", "remote_host", "created_at"})

_object = msgspec.json.Decoder(_Object)


def folded(operation: str, lines: bytes) -> bytes | None:
    """One object of the NDJSON lines of a `chat` or a `generate`; None: they are not that."""
    try:
        items = [_object.decode(line) for line in lines.split(b"\n") if line]
        if not items:
            return None
        whole = _joined(operation, items)
        if operation == "chat":
            messages = [_object.decode(one["message"]) for one in items if "message" in one]
            whole["message"] = msgspec.Raw(_written(_joined("message", messages)))
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError):
        return None
    return _written(whole)


def unfolded(operation: str, text: bytes) -> bytes | None:
    """Two lines of one object: what was said, and then that it is done; None: it is not that."""
    try:
        last = _object.decode(text)
        first = {key: last[key] for key in last if key in _EARLY}
        if operation == "chat":
            first["message"] = last["message"]
            said = _object.decode(last["message"])
            last["message"] = msgspec.Raw(_written(_emptied(said)))
        else:
            first |= {key: last[key] for key in (*_TEXTS, *_LISTS) if key in last}
            last = _emptied(last)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        return None
    if "logprobs" in last:
        first["logprobs"] = last.pop("logprobs")
    first["done"] = msgspec.Raw(b"false")
    return _written(_ordered(operation, first)) + b"\n" + _written(last) + b"\n"


def _joined(name: str, items: Sequence[_Object]) -> _Object:
    """The last of `items`, with the texts and the lists of all."""
    whole = dict(items[-1])
    for key in _TEXTS:
        if parts := _inner(items, key):
            whole[key] = msgspec.Raw(b'"%b"' % b"".join(parts))
    for key in _LISTS:
        if parts := [part for part in _inner(items, key) if part.strip()]:
            whole[key] = msgspec.Raw(b"[%b]" % b",".join(parts))
    return _ordered(name, whole)


def _inner(items: Iterable[_Object], key: str) -> list[bytes]:
    # Between the quotes or brackets: joined there, texts need not be decoded.
    values = [bytes(one[key]) for one in items if key in one]
    return [value[1:-1] for value in values if value != b"null"]


def _emptied(item: _Object) -> _Object:
    kept = {key: item[key] for key in item if key != "thinking" and key not in _LISTS}
    return {key: msgspec.Raw(b'""') if key in _TEXTS else value for key, value in kept.items()}


def _ordered(name: str, item: _Object) -> _Object:
    places = _PLACES[name]
    return {key: item[key] for key in sorted(item, key=lambda one: places.get(one, len(places)))}


def _written(item: _Object) -> bytes:
    return msgspec.json.encode(item)
