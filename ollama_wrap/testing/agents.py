"""The routes of agents: /v1/messages (Anthropic) and /v1/responses (OpenAI).

Owns: their events and answers. Must not know: the other routes' items.
"""

import json
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress

from ollama_wrap.testing.daemon import Daemon, Fields
from ollama_wrap.testing.errors import Refused
from ollama_wrap.testing.gojson import encode
from ollama_wrap.testing.native import begun, whole
from ollama_wrap.testing.openai import Speech, Value, speech_for, stamp
from ollama_wrap.testing.reply import PLAIN_JSON, SSE, Reply, json_reply
from ollama_wrap.testing.request import Request
from ollama_wrap.testing.speech import PROMPT_TOKENS, RunFailed, Said

MESSAGES: Fields = {
    "model": "string",
    "max_tokens": "int",
    "messages": "[]anthropic.MessageParam",
    "stream": "bool",
}
RESPONSES: Fields = {"model": "string", "stream": "bool"}
_STREAM_HEADERS = [("Cache-Control", "no-cache"), ("Connection", "keep-alive")]


async def messages(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /v1/messages."""
    body = daemon.compat_fields(request, "MessagesRequest", MESSAGES)
    _check_message(body)
    asked, stream = str(body["model"]), bool(body.get("stream"))
    start: Value = {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": asked,
    }
    with _marked(stream=stream):
        speech = speech_for(daemon, request, body, "max_tokens")
        if stream:
            return await _streamed(_message_events(speech, start, _estimated(body)))
        said = await whole(speech)
    content = [{"type": "text", "text": said.text}]
    value = {**start, "content": content, "stop_reason": _stop(said), "usage": _counted(said)}
    return json_reply(value, kind=PLAIN_JSON, end=b"\n")


async def responses(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /v1/responses."""
    body = daemon.compat_fields(request, "ResponsesRequest", RESPONSES)
    if not str(body.get("model", "")).strip():
        raise Refused(400, "model is required")
    stream = bool(body.get("stream"))
    answer = _Response(body)
    with _marked(stream=stream):
        speech = speech_for(daemon, request, body, "max_output_tokens")
        if stream:
            return await _streamed(answer.events(speech))
        said = await whole(speech)
    return json_reply(answer.value(said), kind=PLAIN_JSON, end=b"\n")


@contextmanager
def _marked(*, stream: bool) -> Iterator[None]:
    """Give a refusal the headers that stock sets as soon as a stream was asked for."""
    try:
        yield
    except Refused as refused:
        if stream:
            refused.headers += _STREAM_HEADERS
        raise


async def _streamed(events: AsyncGenerator[bytes, None]) -> Reply:
    return Reply(200, [("Content-Type", SSE), *_STREAM_HEADERS], await begun(events))


def _check_message(body: Mapping[str, object]) -> None:
    if not str(body.get("model", "")):
        raise Refused(400, "model is required", early=True)
    most = body.get("max_tokens", 0)
    if not isinstance(most, int) or most <= 0:
        raise Refused(400, "max_tokens is required and must be positive", early=True)
    if not body.get("messages"):
        raise Refused(400, "messages is required", early=True)


def _event(kind: str, value: Mapping[str, object]) -> bytes:
    return f"event: {kind}\ndata: ".encode() + encode(value) + b"\n\n"


def _estimated(body: Mapping[str, object]) -> int:
    """Guess the prompt's tokens as stock does before it knows them: four characters each."""
    given = body.get("messages")
    texts = (
        [m.get("content", "") for m in given if isinstance(m, dict)]
        if isinstance(given, list)
        else []
    )
    return max(sum(len(t if isinstance(t, str) else json.dumps(t)) for t in texts) // 4, 1)


def _counted(said: Said) -> Value:
    return {"input_tokens": PROMPT_TOKENS, "output_tokens": said.tokens}


def _stop(said: Said) -> str:
    return "max_tokens" if said.reason == "length" else "end_turn"


async def _message_events(
    speech: Speech, start: Value, estimate: int
) -> AsyncGenerator[bytes, None]:
    counted = {"input_tokens": estimate, "output_tokens": 0}
    opening = {"type": "message_start", "message": {**start, "content": [], "usage": counted}}
    block = {"type": "content_block_start", "index": 0}
    first = True
    async with aclosing(speech):
        try:
            async for said in speech:
                if first:
                    yield _event("message_start", opening)
                if first and isinstance(said, str):
                    text = {"content_block": {"type": "text", "text": ""}}
                    yield _event("content_block_start", {**block, **text})
                first = False
                if isinstance(said, str):
                    delta = {"type": "text_delta", "text": said}
                    value = {"type": "content_block_delta", "index": 0, "delta": delta}
                    yield _event("content_block_delta", value)
                    continue
                yield _event("content_block_stop", {"type": "content_block_stop", "index": 0})
                end = {"delta": {"stop_reason": _stop(said)}, "usage": _counted(said)}
                yield _event("message_delta", {"type": "message_delta", **end})
                yield _event("message_stop", {"type": "message_stop"})
        except RunFailed:
            # After the first event stock just stops.
            if first:
                raise


class _Response:
    """One answer of /v1/responses; keys in alphabetical order, as Go writes a map."""

    def __init__(self, body: Mapping[str, object]) -> None:
        self._model = str(body["model"])
        self._created = stamp()
        self._id = f"resp_{secrets.randbelow(900_000) + 100_000}"
        self._item = f"msg_{secrets.randbelow(900_000) + 100_000}"
        self._number = 0

    def value(self, said: Said | None = None) -> Value:
        """Return the response object, in progress or complete."""
        value = _constant_fields() | {
            "completed_at": None if said is None else stamp(),
            "created_at": self._created,
            "id": self._id,
            "model": self._model,
            "output": [] if said is None else [self._message(said.text)],
            "status": "in_progress" if said is None else "completed",
            "usage": None if said is None else _response_usage(said),
        }
        return dict(sorted(value.items()))

    async def events(self, speech: Speech) -> AsyncGenerator[bytes, None]:
        """Yield the events of a stream; a failure after the first one just stops them."""
        async with aclosing(speech):
            # Waits for the load: until then the answer may still be an error with a status.
            first = await anext(speech, None)
            for event in self._opening():
                yield event
            with suppress(RunFailed):
                said = first
                while isinstance(said, str):
                    yield self._part("response.output_text.delta", delta=said, logprobs=[])
                    said = await anext(speech, None)
                if said is not None:
                    for event in self._closing(said):
                        yield event

    def _opening(self) -> Iterator[bytes]:
        yield self._event("response.created", response=self.value())
        yield self._event("response.in_progress", response=self.value())
        item = {"content": [], "id": self._item, "role": "assistant"}
        item |= {"status": "in_progress", "type": "message"}
        yield self._event("response.output_item.added", item=item, output_index=0)
        yield self._part("response.content_part.added", part=_text_part(""))

    def _closing(self, said: Said) -> Iterator[bytes]:
        yield self._part("response.output_text.done", logprobs=[], text=said.text)
        yield self._part("response.content_part.done", part=_text_part(said.text))
        item = self._message(said.text)
        yield self._event("response.output_item.done", item=item, output_index=0)
        yield self._event("response.completed", response=self.value(said))

    def _part(self, kind: str, **values: object) -> bytes:
        where = {"content_index": 0, "item_id": self._item, "output_index": 0}
        return self._event(kind, **where, **values)

    def _event(self, kind: str, **values: object) -> bytes:
        value = {**values, "sequence_number": self._number, "type": kind}
        self._number += 1
        return _event(kind, dict(sorted(value.items())))

    def _message(self, text: str) -> Value:
        return {
            "content": [_text_part(text)],
            "id": self._item,
            "role": "assistant",
            "status": "completed",
            "type": "message",
        }


def _text_part(text: str) -> Value:
    return {"annotations": [], "logprobs": [], "text": text, "type": "output_text"}


def _response_usage(said: Said) -> Value:
    return {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": said.tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": PROMPT_TOKENS + said.tokens,
    }


def _constant_fields() -> Value:
    nulls = (
        "error incomplete_details instructions max_output_tokens max_tool_calls"
        " previous_response_id prompt_cache_key reasoning safety_identifier"
    )
    return dict.fromkeys(nulls.split()) | {
        "background": False,
        "frequency_penalty": 0,
        "metadata": {},
        "object": "response",
        "parallel_tool_calls": True,
        "presence_penalty": 0,
        "service_tier": "default",
        "store": False,
        "temperature": 1,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1,
        "truncation": "disabled",
    }
