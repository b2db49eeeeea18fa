"""JSON as Go's encoding/json reads and writes it.

Owns: one value from the front of a body, keys without case, Go's error sentences, Go's escapes.
Must not know: routes, models, or what any field means.
"""

import json
from collections.abc import Mapping
from itertools import zip_longest

#: Go escapes what could end a script in a page, and two that end lines in one
_ESCAPES = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)
_LITERALS = {"t": "true", "f": "false", "n": "null"}
#: what Python reads as an integer, whatever its settings
_DIGITS = 600
_ACCEPTS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "bool": (bool,),
    "int": (int,),
    "float64": (int, float),
}


class BadJsonError(Exception):
    """A body that Go would not decode; ``str()`` is Go's own sentence, ``EOF`` for no body."""


def encode(value: object) -> bytes:
    """Return compact JSON with the characters escaped that Go escapes, no newline."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate(_ESCAPES)
    # Go writes small floats without an exponent; this is the only one the fake ever sends.
    return text.replace(":1e-05", ":0.00001").encode()


def first_value(raw: bytes) -> object:
    """Return the first JSON value in `raw`; what follows it is ignored. Raises BadJsonError."""
    text = raw.decode("utf-8", "replace")
    start = len(text) - len(text.lstrip(" \t\r\n"))
    if start == len(text):
        raise BadJsonError("EOF")
    # NaN and Infinity are Python's idea of JSON, not Go's.
    decoder = json.JSONDecoder(
        object_pairs_hook=_folded, parse_constant=_no_constant, parse_int=_number
    )
    try:
        value: object = decoder.raw_decode(text, start)[0]
    except json.JSONDecodeError as error:
        raise BadJsonError(_sentence(text, error)) from None
    except RecursionError:
        raise BadJsonError("exceeded max depth") from None
    return value


def bind(raw: bytes, struct: str, fields: Mapping[str, str]) -> dict[str, object]:
    """Return the body's object, checked against the Go type of each known field.

    Keys come back in lower case; a field that was null or absent is not there.
    """
    value = first_value(raw)
    if not isinstance(value, dict):
        raise BadJsonError(
            f"json: cannot unmarshal {_kind(value)} into Go value of type api.{struct}"
        )
    for name, given in value.items():
        wanted = fields.get(name)
        if wanted is None or _fits(given, wanted):
            continue
        raise BadJsonError(
            f"json: cannot unmarshal {_kind(given)} into Go struct field "
            f"{struct}.{name} of type {wanted}"
        )
    return value


def _number(text: str) -> float:
    # Python refuses to read very long integers, Go does not.
    return int(text) if len(text) < _DIGITS else float(text)


def _folded(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Go finds fields whatever the case of their keys, and null leaves them as they were.
    return {key.casefold(): value for key, value in pairs if value is not None}


def _no_constant(name: str) -> object:
    raise BadJsonError(f"invalid character '{name[0]}' looking for beginning of value")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    names = ((str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def _fits(value: object, wanted: str) -> bool:
    if wanted.startswith("[]"):
        return isinstance(value, list)
    if wanted.startswith("map"):
        return isinstance(value, dict)
    if wanted != "bool" and isinstance(value, bool):
        return False
    return isinstance(value, _ACCEPTS[wanted])


def _sentence(text: str, error: json.JSONDecodeError) -> str:
    at = error.pos
    if error.msg.startswith("Unterminated") or at >= len(text.rstrip(" \t\r\n")):
        return "unexpected EOF"
    if error.msg.startswith("Expecting value") and text[at] in _LITERALS:
        return _literal(text[at:], _LITERALS[text[at]])
    where = "looking for beginning of value"
    if error.msg.startswith("Expecting property name"):
        where = "looking for beginning of object key string"
    elif error.msg.startswith("Expecting ':'"):
        where = "after object key"
    elif error.msg.startswith("Expecting ','"):
        where = f"after {_surrounding(text[:at])}"
    elif error.msg.startswith("Invalid control"):
        where = "in string literal"
    elif error.msg.startswith("Invalid \\"):
        at, where = at + 1, "in string escape code"
    return f"invalid character {_quoted(text[at : at + 1])} {where}"


def _literal(rest: str, word: str) -> str:
    for got, expected in zip_longest(rest[: len(word)], word):
        if got is None:
            return "unexpected EOF"
        if got != expected:
            return f"invalid character {_quoted(got)} in literal {word} (expecting '{expected}')"
    return "unexpected EOF"


def _surrounding(before: str) -> str:
    """Say what the parser was inside of: the last bracket that is still open decides."""
    open_brackets: list[str] = []
    in_string = escaped = False
    for char in before:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "{[":
            open_brackets.append(char)
        elif char in "}]":
            open_brackets.pop()
    return "array element" if open_brackets[-1:] == ["["] else "object key:value pair"


def _quoted(char: str) -> str:
    if char == "'":
        return "'\\''"
    if char == '"':
        return "'\"'"
    return "'" + json.dumps(char, ensure_ascii=False)[1:-1] + "'"
