"""What the fields of a body mean on each route: model, stream, load and unload.

Types and defaults are those of stock's api/types.go, openai/openai.go and
anthropic/anthropic.go. It must not know how a body is parsed (`body`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isinf

from msgspec.structs import replace

from ollama_wrap.call import Header, Kind
from ollama_wrap.dialects import ordinary
from ollama_wrap.dialects.base import Reading, Route
from ollama_wrap.dialects.body import (
    Overwritten,
    Text,
    Unpacking,
    Values,
    fields,
    form_field,
    packed,
    string,
    unpacked,
)
from ollama_wrap.dialects.form import Form
from ollama_wrap.dialects.scan import Scan

# Whether JSON's null clears an earlier value: stock has pointers, lists and maps there.
_CLEARS, _LEAVES = True, False
_MODEL = {"model": _LEAVES}
_NAMED = {"model": _LEAVES, "name": _LEAVES}
_NATIVE = {"stream": _CLEARS, "keep_alive": _CLEARS}
_FILES = ("files", "adapters", "draft_files")
# The first bytes that a value may have; stock answers 400 to anything else.
_STRING, _FLAG = b'"', b"tf"
_FIRST = {
    **dict.fromkeys(("messages", "context"), b"["),
    **dict.fromkeys(_FILES, b"{"),
    "stream": _FLAG,
    "keep_alive": b'"-0123456789',
    "input": b'"[',
}
#: strings that may be long, and are not looked into
_TEXTS = ("prompt", "input")
# Longer values are not searched for a blank inside.
_SHORT = 1024
_nothing = re.compile(rb'""|[\[{][ \t\r\n]*[\]}]')
_duration = re.compile(r"[-+]?(?:0|(?:(?:\d++\.?+\d*+|\.\d++)(?:ns|us|µs|μs|ms|s|m|h))++)")
_amount = re.compile(r"(\d*)(\.\d*)?(ns|us|µs|μs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 1e3, "µs": 1e3, "μs": 1e3, "ms": 1e6, "s": 1e9, "m": 6e10, "h": 3.6e12}


#: meanings of ordinary bodies that are remembered, by operation, model and `stream`
_KEPT = 1024
_readings: dict[tuple[str, str, bool | None], Reading] = {}


@dataclass(frozen=True, slots=True)
class _Operation:
    wanted: Mapping[str, bool]
    streams: bool = False
    #: the field without which the request only loads the model
    work: str | None = None
    unloads: bool = False
    #: names more than one model
    several: bool = False


_OPERATIONS = {
    "generate": _Operation(
        {**_MODEL, **_NATIVE, "prompt": _LEAVES, "context": _CLEARS}, True, "prompt", True
    ),
    "chat": _Operation({**_MODEL, **_NATIVE, "messages": _CLEARS}, True, "messages", True),
    "embed": _Operation({**_MODEL, "input": _CLEARS, "keep_alive": _CLEARS}, work="input"),
    "embeddings": _Operation({**_MODEL, "prompt": _LEAVES, "keep_alive": _CLEARS}, work="prompt"),
    "completions": _Operation({**_MODEL, "prompt": _LEAVES, "stream": _LEAVES}, work="prompt"),
    "chat-completions": _Operation({**_MODEL, "stream": _LEAVES}),
    "openai-embeddings": _Operation(_MODEL),
    "responses": _Operation({**_MODEL, "stream": _CLEARS}),
    "messages": _Operation({**_MODEL, "stream": _LEAVES}),
    "show": _Operation(_NAMED),
    "delete": _Operation(_NAMED),
    "pull": _Operation({**_NAMED, "stream": _CLEARS}, streams=True),
    "push": _Operation({**_NAMED, "stream": _CLEARS}, streams=True),
    "copy": _Operation({"source": _LEAVES, "destination": _LEAVES}, several=True),
    "create": _Operation(
        {
            **_NAMED,
            "stream": _CLEARS,
            "from": _LEAVES,
            "remote_host": _LEAVES,
            **dict.fromkeys(_FILES, _CLEARS),
        },
        streams=True,
        several=True,
    ),
}


def read(
    route: Route, body: bytes, headers: Sequence[Header], *, whole: bool = True
) -> Reading | None:
    """What `body` asks for, or None: stock would refuse it, or we cannot tell what it says.

    Which value wins is known only at the end of a body, so nothing is stopped
    early: a MiB costs 0.5 to 3 ms, and longer bodies are read by `Incoming`.
    `whole=False` reads a beginning, and is None where no model stands in it; it never
    says load or unload.
    A value of a wrong type that a later one replaces is not noticed: every node
    answers 400 to it.
    """
    said = ordinary.read(route.operation, body) if whole else None
    if said is not None:
        known = _readings.get((route.operation, said.model, said.stream))
        return known or _remembered(route, said.model, said.stream)
    return _read(route, body, headers, whole=whole)


def _read(route: Route, body: bytes, headers: Sequence[Header], *, whole: bool) -> Reading | None:
    if not route.reads_body:
        return Reading(route.model, False, route.kind, route.repeatable, follows=route.model)
    if route.operation == "transcriptions":
        return _of_form(route, form_field(body, headers, b"model"))
    plain = body if route.dialect == "ollama" else unpacked(body, headers)
    operation = _OPERATIONS[route.operation]
    found = None if plain is None else fields(plain, operation.wanted, whole=whole)
    return None if found is None else _said(route, *found, whole=whole)


class Incoming:
    """The reading of a long JSON body while it comes; `route` is one that reads JSON.

    Says what `read` says, but for what `Scan.found` names, and for a model's name longer
    than any: None.
    """

    def __init__(self, route: Route, unpacking: Unpacking | None = None) -> None:
        self._route = route
        self._unpacking = unpacking
        self._scan = Scan(_OPERATIONS[route.operation].wanted)

    def plain(self, piece: bytes) -> Sequence[bytes]:
        """The next bytes of the body as bytes to feed, 64 KiB each if so many were given."""
        return (piece,) if self._unpacking is None else self._unpacking.plain(piece)

    def feed(self, piece: bytes) -> None:
        """The next bytes without their coding; 64 KiB take 5 ms at most."""
        self._scan.feed(piece)

    def reading(self, *, whole: bool = True) -> Reading | None:
        """What they ask for; `whole` as in `read`."""
        found = self._scan.found(whole=whole)
        return None if found is None else _said(self._route, *found, whole=whole)

    def named(self) -> tuple[tuple[int, int], ...]:
        """Where another model's name would go: see `Call.named`."""
        if self._route.operation == "show" or self._unpacking is not None:
            return ()
        return self._scan.places("model")


class IncomingForm(Incoming):
    """The same of a form."""

    def __init__(self, route: Route, headers: Sequence[Header]) -> None:
        self._route = route
        self._unpacking = None
        self._form = Form(headers)

    def feed(self, piece: bytes) -> None:
        """See `Incoming`."""
        self._form.feed(piece)

    def reading(self, *, whole: bool = True) -> Reading | None:
        """See `Incoming`; `whole` makes no difference."""
        del whole
        return _of_form(self._route, self._form.field(b"model"))

    def named(self) -> tuple[tuple[int, int], ...]:
        """See `Incoming`."""
        return ()


def incoming(route: Route, headers: Sequence[Header]) -> Incoming | None:
    """The reading of a long body; None: `route` reads none."""
    if not route.reads_body:
        return None
    if route.operation == "transcriptions":
        return IncomingForm(route, headers)
    coded = route.dialect != "ollama" and packed(headers)
    return Incoming(route, Unpacking() if coded else None)


def _of_form(route: Route, model: str | None) -> Reading | None:
    return Reading(model, False, route.kind, route.repeatable, follows=model) if model else None


def _said(route: Route, values: Values, overwritten: Overwritten, *, whole: bool) -> Reading | None:
    for name, value in values.items():
        # A value of a wrong type: stock's own 400 is the answer.
        if value[0] not in _FIRST.get(name, _STRING):
            return None
    # A scan has not kept it.
    if any(
        value == _STRING and name not in _TEXTS for name, value in (*values.items(), *overwritten)
    ):
        return None
    reading = _meaning(route, _OPERATIONS[route.operation], values, overwritten)
    if whole or reading is None:
        return reading
    # What is missing may stand behind what we have.
    return replace(reading, kind=route.kind, unload=False, load=False) if reading.model else None


def _remembered(route: Route, model: str, stream: bool | None) -> Reading:  # noqa: FBT001  a value
    """The meaning of an ordinary body: its model is asked for again."""
    streams = _OPERATIONS[route.operation].streams if stream is None else stream
    known = Reading(model, streams, route.kind, route.repeatable, follows=model)
    if len(_readings) >= _KEPT:
        _readings.clear()
    _readings[route.operation, model, stream] = known
    return known


def _meaning(
    route: Route, operation: _Operation, values: Values, overwritten: Overwritten
) -> Reading | None:
    stream = values.get("stream")
    unload = load = False
    if operation.work is not None:
        work = values.get(operation.work)
        # A prompt of blanks is a prompt; an empty one is none.
        load = work is None or (len(work) < _SHORT and _nothing.fullmatch(work) is not None)
    keep = values.get("keep_alive")
    if keep is not None:
        zero = _is_zero(keep)
        if zero is None:
            return None
        unload = load and zero and operation.unloads
    kind = route.kind
    model = follows = _text(values, "model") or _text(values, "name")
    sources: tuple[str, ...] = ()
    if operation.several:
        kind, model, follows, sources = _names(route, values)
    if overwritten:
        sources += tuple(string(v) for name, v in overwritten if name == "model" and v[0] == 34)
    context = values.get("context")
    return Reading(
        model,
        operation.streams if stream is None else stream == b"true",
        Kind.SPREAD if unload else kind,
        route.repeatable and not unload,
        bound_to_digest=context is not None and _nothing.fullmatch(context) is None,
        unload=unload,
        load=load and not unload,
        sources=sources,
        follows=follows,
    )


def _names(route: Route, values: Values) -> tuple[Kind, str | None, str | None, tuple[str, ...]]:
    """Kind, the model named, the one whose holder answers, and all others."""
    if route.operation == "copy":
        source = _text(values, "source")
        target = _text(values, "destination")
        return route.kind, source, source, (target,) if target else ()
    model = _text(values, "model") or _text(values, "name")
    base = _text(values, "from")
    if base is None:
        return route.kind, model, model, ()
    # Blobs are on the host they were sent to; a remote stub is a matter of its account.
    here = _text(values, "remote_host") or any(
        name in values and _nothing.fullmatch(values[name]) is None for name in _FILES
    )
    return Kind.ONCE if here else Kind.FOLLOW, model, model if here else base, (base,)


def _text(values: Values, name: str) -> str | None:
    value = values.get(name)
    return string(value) or None if value is not None else None


def _is_zero(value: Text) -> bool | None:
    """Whether a `keep_alive` is no time at all; None where stock refuses it."""
    if len(value) > _SHORT:
        return None  # no time that anybody means
    text = bytes(value).decode("utf-8", "replace")
    if text[0] != '"':
        number = float(text)
        return None if isinf(number) else 0 <= number * 1e9 < 1
    text = string(value)
    if _duration.fullmatch(text) is None:
        return None
    # Go cuts each amount to whole nanoseconds.
    return all(
        not count.strip("0") and float(f"0{part or '.0'}0") * _UNITS[unit] < 1
        for count, part, unit in _amount.findall(text)
    )
