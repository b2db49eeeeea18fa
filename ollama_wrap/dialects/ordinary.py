"""Bodies as clients' libraries write them, read in one pass of the decoder.

Only bodies whose meaning cannot be in doubt: the fields that stock knows, spelled
as it spells them, of the types that it takes, and none that asks for more than an
answer. All others are `body`'s and `reading`'s business. Fields are those of
stock's api/types.go and openai/openai.go.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Protocol

import msgspec

_NOT_EMPTY = msgspec.Meta(min_length=1)
_Text = Annotated[str, _NOT_EMPTY]
_List = Annotated[list[msgspec.Raw], _NOT_EMPTY]

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
    "generate": ("prompt", _Text),
    "chat": ("messages", _List),
    "embed": ("input", _Text | _List),
    "completions": ("prompt", _Text),
}


class Said(Protocol):
    """What is asked of an ordinary body; `stream`: None where it is not said."""

    model: str
    stream: bool | None


def _decoder(operation: str, others: Iterable[str]) -> msgspec.json.Decoder[Any]:
    work = _WORK.get(operation)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [("model", _Text)]
    # A required field: where it is missing or empty, the decoder says so.
    fields += [work] if work is not None else []
    # No field where stock knows none.
    streams = operation != "embed"
    fields += [("stream", bool, None)] if streams else []
    fields += [(name, msgspec.Raw, None) for name in others]
    shape = msgspec.defstruct(
        "Body", fields, forbid_unknown_fields=True, namespace={} if streams else {"stream": None}
    )
    return msgspec.json.Decoder(shape)


_DECODERS = {operation: _decoder(operation, others) for operation, others in _OTHERS.items()}


def read(operation: str, body: bytes) -> Said | None:
    """An ordinary body with work in it; None: it is no such."""
    decoder = _DECODERS.get(operation)
    if decoder is None:
        return None
    try:
        said: Said = decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return said
