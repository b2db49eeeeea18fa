"""How a line of the log is written: json, logfmt, or console for people.

Pure. Owns escaping and bounds: whatever a client puts into a path, a model or
a header, a line is one line of printable ASCII and at most 2 KiB. Does not
know where lines go.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from pathlib import PurePath
from types import TracebackType

from msgspec import Struct

from ollama_wrap.errors import WrapError
from ollama_wrap.observe.ended import Ended

LINE = 2048
VALUE = 400
FRAMES = 10

# These bounds add up to less than a line, names and quotes included.
ID, METHOD, PATH, MODEL, WORD, ATTEMPTS, ERROR = 128, 20, 400, 200, 64, 300, 300

_plain = re.compile(r"[\w./:@%+,;~!?&*()\[\]-]+", re.ASCII).fullmatch
_credentials = re.compile(r"://[^/\s]*@")


class Stamp(Struct, frozen=True):
    """One moment: Unix time as ISO 8601 in UTC, and as a local time of day."""

    iso: str
    local: str


@dataclass(frozen=True, slots=True)
class Format:
    """Two ways into one form: the line of an ended request, and any other event."""

    request: Callable[[Stamp, Ended], str]
    event: Callable[[Stamp, str, str, Mapping[str, object]], str]


def quoted(text: str, limit: int) -> str:
    """`text` as a JSON string in printable ASCII, cut so that it has at most `limit` characters."""
    size = limit - 2
    result = encode_basestring_ascii(text[:size])
    # An escape is up to twelve characters; cutting before escaping keeps each of them whole.
    while len(result) > limit:
        size = size * limit // len(result) - 1
        result = encode_basestring_ascii(text[:size])
    return result


def word(text: str, limit: int) -> str:
    """`text` as it is where that is unmistakable, else quoted."""
    if len(text) <= limit and _plain(text):
        return text
    return quoted(text, limit)


def _attempts(ended: Ended) -> str:
    return ",".join([f"{node}:{outcome}" for node, outcome in ended.attempts])


#: parts of a sort that a request may lack: name and bound
_GIVEN = (("model", MODEL), ("node", WORD), ("reason", WORD), ("fallback", WORD))
_Sort = tuple[str, str, str, str | None, str | None, str | None, str | None]


@lru_cache(maxsize=1024)
def _which(sort: _Sort) -> tuple[str, str, str]:
    """Method, path, and the pairs that come again with every request of a sort."""
    method, path, operation, *given = sort
    pairs = f" operation={word(operation, WORD)}"
    for (name, limit), text in zip(_GIVEN, given, strict=True):
        if text is not None:
            pairs += f" {name}={word(text, limit)}"
    return word(method, METHOD), word(path, PATH), pairs


def _pairs(e: Ended) -> str:
    attempts = f" attempts={word(_attempts(e), ATTEMPTS)}" if e.attempts else ""
    tokens = "" if e.tokens is None else f" tokens={e.tokens}"
    first = "" if e.first_byte is None else f" first_byte={e.first_byte:.3f}"
    error = "" if e.error is None else f" error={word(e.error, ERROR)}"
    return (
        f"{attempts} status={e.status} bytes={e.bytes_out}{tokens}{first}"
        f" duration={e.duration:.3f}{error}"
    )


def _request_logfmt(stamp: Stamp, e: Ended) -> str:
    # What requests of one sort have in common.
    sort = (e.method, e.path, e.operation, e.model, e.node, e.reason, e.fallback)
    method, path, pairs = _which(sort)
    number = e.id if len(e.id) <= ID and _plain(e.id) else quoted(e.id, ID)
    if e.first_byte is None or e.tokens is None or e.attempts or e.error is not None:
        rest = _pairs(e)
    else:
        # The usual request, in one piece: this is most of what a line costs.
        rest = (
            f" status={e.status} bytes={e.bytes_out} tokens={e.tokens}"
            f" first_byte={e.first_byte:.3f} duration={e.duration:.3f}"
        )
    level = "info" if e.status < 500 else "warning"
    return (
        f"time={stamp.iso} level={level} event=request id={number}"
        f" method={method} path={path}{pairs}{rest}\n"
    )


def _request_console(stamp: Stamp, e: Ended) -> str:
    sort = (e.method, e.path, e.operation, e.model, e.node, e.reason, e.fallback)
    method, path, pairs = _which(sort)
    what = f"{method} {path}{pairs}{_pairs(e)}"
    return f"{stamp.local} {e.level:<7} {what} id={word(e.id, ID)}\n"


def _request_json(stamp: Stamp, e: Ended) -> str:
    return (
        f'{{"time":"{stamp.iso}","level":"{e.level}","event":"request","id":{quoted(e.id, ID)},'
        f'"method":{quoted(e.method, METHOD)},"path":{quoted(e.path, PATH)},'
        f'"operation":{quoted(e.operation, WORD)},"model":{_text(e.model, MODEL)},'
        f'"node":{_text(e.node, WORD)},"reason":{_text(e.reason, WORD)},'
        f'"fallback":{_text(e.fallback, WORD)},"attempts":{_text(_attempts(e) or None, ATTEMPTS)},'
        f'"status":{e.status},"bytes":{e.bytes_out},'
        f'"tokens":{"null" if e.tokens is None else e.tokens},'
        f'"first_byte":{"null" if e.first_byte is None else format(e.first_byte, ".3f")},'
        f'"duration":{e.duration:.3f},"error":{_text(e.error, ERROR)}}}\n'
    )


def _text(text: str | None, limit: int) -> str:
    return "null" if text is None else quoted(text, limit)


def _event_logfmt(stamp: Stamp, level: str, event: str, fields: Mapping[str, object]) -> str:
    head = f"time={stamp.iso} level={level} event={word(_public(event), VALUE)}"
    return _fill(head, _spaced(fields), "\n")


def _event_console(stamp: Stamp, level: str, event: str, fields: Mapping[str, object]) -> str:
    # Without its quotes: this one is read by people.
    head = f"{stamp.local} {level:<7} {quoted(_public(event), VALUE)[1:-1]}"
    return _fill(head, _spaced(fields), "\n")


def _event_json(stamp: Stamp, level: str, event: str, fields: Mapping[str, object]) -> str:
    head = f'{{"time":"{stamp.iso}","level":"{level}","event":{quoted(_public(event), VALUE)}'
    pairs = (f",{quoted(name, WORD)}:{_value(value, quoted)}" for name, value in fields.items())
    return _fill(head, pairs, "}\n")


def _spaced(fields: Mapping[str, object]) -> Iterator[str]:
    for name, value in fields.items():
        if value is not None:
            yield f" {name}={_value(value, word)}"


def _fill(head: str, pairs: Iterable[str], tail: str) -> str:
    parts, room = [head], LINE - len(head) - len(tail)
    # A field that does not fit is left out, never cut: half an escape would break the line.
    for pair in pairs:
        if len(pair) <= room:
            parts.append(pair)
            room -= len(pair)
    return "".join(parts) + tail


def _value(value: object, write: Callable[[str, int], str]) -> str:
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < float("inf") else "null"
    return write(_public(str(value)), VALUE)


def _public(text: str) -> str:
    return _credentials.sub("://***@", text) if "@" in text else text


def failure(error: BaseException) -> dict[str, str]:
    """An exception as fields: what it is, and where it comes from, the innermost frame first.

    What somebody else's exception says stays out where it may repeat what a
    client sent: those about values and keys.
    """
    name = type(error).__name__
    ours = isinstance(error, WrapError)
    echoes = isinstance(error, ValueError | LookupError)
    text = name if (echoes and not ours) or not str(error) else f"{name}: {error}"
    fields = {"error": text, "where": " < ".join(_frames(error.__traceback__))}
    if (cause := error.__cause__) is not None:
        fields["cause"] = failure(cause)["error"]
    return fields


def _frames(trace: TracebackType | None) -> list[str]:
    frames = []
    while trace is not None:
        code = trace.tb_frame.f_code
        file = "/".join(PurePath(code.co_filename).parts[-2:])
        frames.append(f"{file}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[::-1][:FRAMES]


FORMATS: Mapping[str, Format] = {
    "console": Format(_request_console, _event_console),
    "logfmt": Format(_request_logfmt, _event_logfmt),
    "json": Format(_request_json, _event_json),
}
