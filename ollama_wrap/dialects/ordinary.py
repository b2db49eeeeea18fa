"""Bodies as clients' libraries write them, read in one pass of the decoder.

Only bodies whose meaning cannot be in doubt: the fields that stock knows, spelled
as it spells them, of the types that it takes, and none that asks for more than an
answer. All others are `body`'s and `reading`'s business. Fields are those of
stock's api/types.go and openai/openai.go.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

_SAMPLING = (
    "frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens",
    "n", "presence_penalty", "seed", "stop", "stream_options", "temperature", "top_logprobs",
    "top_p", "user",
)  # fmt: skip
_NATIVE = ("format", "options", "shift", "think", "truncate", "logprobs", "top_logprobs")
#: fields that change nothing of where a call goes
_OTHERS: Mapping[str, Iterable[str]] = {
    "generate": (*_NATIVE, "suffix", "system", "template", "raw", "images"),
    "chat": (*_NATIVE, "tools"),
    "embed": ("options", "truncate", "dimensions"),
    "chat-completions": (
        *_SAMPLING,
        "messages",
        "parallel_tool_calls",
        "reasoning_effort",
        "response_format",
        "tool_choice",
        "tools",
    ),
    "completions": (*_SAMPLING, "best_of", "echo", "suffix"),
}
#: the field without which a request only loads its model, and what it may be
_WORK: Mapping[str, tuple[str, Any]] = {
    "generate": ("prompt", str),
    "chat": ("messages", list[msgspec.Raw]),
    "embed": ("input", str | list[msgspec.Raw]),
    "completions": ("prompt", str),
}


def _decoder(operation: str, others: Iterable[str]) -> msgspec.json.Decoder[Any]:
    work = _WORK.get(operation)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [("model", str)]
    # A required field: where it is missing, the decoder says so.
    fields += [work] if work is not None else []
    if operation != "embed":
        fields.append(("stream", bool, None))
    fields += [(name, msgspec.Raw, None) for name in others]
    shape = msgspec.defstruct("Body", fields, forbid_unknown_fields=True)
    return msgspec.json.Decoder(shape)


_DECODERS = {operation: _decoder(operation, others) for operation, others in _OTHERS.items()}


def read(operation: str, body: bytes) -> tuple[str, bool | None] | None:
    """Model and `stream` (None: not said) of an ordinary body with work in it; None: no such."""
    decoder = _DECODERS.get(operation)
    if decoder is None:
        return None
    try:
        said = decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    work = _WORK.get(operation)
    if not said.model or (work is not None and not getattr(said, work[0])):
        return None
    return said.model, getattr(said, "stream", None)
