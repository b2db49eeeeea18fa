"""The OpenAI routes: chat/completions, completions, embeddings, audio/transcriptions.

Owns: their chunks and answers. Must not know: the native routes' items.
"""

import base64
import secrets
import struct
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import HTTP as HTTP_POLICY

from ollama_wrap.testing.daemon import Daemon, Fields, text_of
from ollama_wrap.testing.errors import Refused
from ollama_wrap.testing.gojson import encode
from ollama_wrap.testing.native import EMBED_TOKENS, VECTOR, begun, embedded, find_embedding, whole
from ollama_wrap.testing.reply import NDJSON, PLAIN_JSON, SSE, Reply, json_reply, one
from ollama_wrap.testing.request import Request
from ollama_wrap.testing.speech import PROMPT_TOKENS, RunFailed, Said

CHAT: Fields = {"model": "string", "messages": "[]openai.Message", "stream": "bool"}
COMPLETION: Fields = {"model": "string", "prompt": "string", "stream": "bool"}
EMBED: Fields = {"model": "string"}
Value = dict[str, object]
Speech = AsyncGenerator[str | Said, None]


@dataclass(frozen=True, slots=True)
class _Form:
    """What all chunks of one answer share."""

    id: str
    model: str
    created: int
    usage: bool
    modern: bool


async def chat(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /v1/chat/completions."""
    body = daemon.compat_fields(request, "ChatCompletionRequest", CHAT)
    if not body.get("messages"):
        raise Refused(400, "[] is too short - 'messages'", early=True)
    asked = str(body.get("model", ""))
    if not asked.strip():
        raise Refused(400, "model is required")
    speech = speech_for(daemon, request, body, "max_completion_tokens", "max_tokens")
    form = _form("chatcmpl", asked, body, daemon)
    if body.get("stream"):
        return Reply(200, [("Content-Type", SSE)], await begun(_chat_chunks(speech, form)))
    said = await whole(speech)
    message = {"role": "assistant", "content": said.text}
    choice = {"index": 0, "message": message, "finish_reason": said.reason or None}
    value = {**_chat_head(form, "chat.completion"), "choices": [choice], "usage": usage(said)}
    return json_reply(value, kind=PLAIN_JSON, end=b"\n")


async def completion(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /v1/completions."""
    body = daemon.compat_fields(request, "CompletionRequest", COMPLETION)
    asked = str(body.get("model", ""))
    if not asked.strip():
        raise Refused(404, "model '' not found")
    speech = speech_for(daemon, request, body, "max_tokens")
    form = _form("cmpl", asked, body, daemon)
    if body.get("stream"):
        return Reply(200, [("Content-Type", SSE)], await begun(_text_chunks(speech, form)))
    said = await whole(speech)
    choice = {"text": said.text, "index": 0, "finish_reason": said.reason or None}
    value = {**_chat_head(form, "text_completion"), "choices": [choice], "usage": usage(said)}
    return json_reply(value, kind=PLAIN_JSON, end=b"\n")


async def embeddings(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /v1/embeddings."""
    body = daemon.compat_fields(request, "EmbedRequest", EMBED)
    asked, given = str(body.get("model", "")), body.get("input", "")
    if not given:
        raise Refused(400, "invalid input", early=True)
    model = find_embedding(daemon, asked)
    await embedded(daemon, request, daemon.wish(request, model, {}))
    inputs = given if isinstance(given, list) else [given]
    packed = base64.b64encode(struct.pack("<4f", *VECTOR)).decode()
    vector = packed if body.get("encoding_format") == "base64" else VECTOR
    rows = [{"object": "embedding", "embedding": vector, "index": i} for i in range(len(inputs))]
    tokens = EMBED_TOKENS * len(inputs)
    total = {"prompt_tokens": tokens, "total_tokens": tokens}
    value = {"object": "list", "data": rows, "model": asked, "usage": total}
    return json_reply(value, kind=PLAIN_JSON, end=b"\n")


async def transcription(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /v1/audio/transcriptions, with the content type that stock gives it."""
    form = multipart(request)
    asked = form.get("model", "").strip()
    if not asked:
        raise Refused(400, "model is required", early=True)
    if "file" not in form:
        raise Refused(400, "file is required", early=True)
    model = daemon.runnable(asked)
    speech = daemon.voice.speak(daemon.wish(request, model, {}), request.rule)
    text = (await whole(speech)).text.strip()
    plain = form.get("response_format") == "text"
    body = text.encode() if plain else encode({"text": text}) + b"\n"
    return Reply(200, [("Content-Type", NDJSON)], one(body))


def multipart(request: Request) -> dict[str, str]:
    """Return the fields of a multipart body; an unreadable one has none."""
    head = f"Content-Type: {request.header('content-type')}\r\n\r\n".encode("latin-1")
    message = BytesParser(policy=HTTP_POLICY).parsebytes(head + request.raw)
    fields: dict[str, str] = {}
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(payload, bytes):
            fields[name] = payload.decode("latin-1").removesuffix("\r\n")
    return fields


def speech_for(
    daemon: Daemon, request: Request, body: Mapping[str, object], *limits: str
) -> Speech:
    """Start what a /v1 body asks for; `limits` names the fields with the most tokens."""
    asked = text_of(body, "model")
    model = daemon.runnable(asked)
    if "completion" not in model.capabilities:
        raise Refused(400, f'"{asked}" does not support chat')
    if body.get("tools") and "tools" not in model.capabilities:
        raise Refused(400, f"registry.ollama.ai/library/{model.name} does not support tools")
    given = (body.get(name) for name in limits)
    most = next((limit for limit in given if isinstance(limit, int) and limit > 0), None)
    return daemon.voice.speak(daemon.wish(request, model, {}), request.rule, most)


def usage(said: Said) -> Value:
    """Return the token counts of a generation."""
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": said.tokens,
        "total_tokens": PROMPT_TOKENS + said.tokens,
    }


def stamp() -> int:
    """Return the time in whole seconds."""
    return int(datetime.now(UTC).timestamp())


def _form(prefix: str, asked: str, body: Mapping[str, object], daemon: Daemon) -> _Form:
    options = body.get("stream_options")
    wants = isinstance(options, dict) and bool(options.get("include_usage"))
    number = secrets.randbelow(900) + 100
    return _Form(f"{prefix}-{number}", asked, stamp(), wants, daemon.options.modern)


def _event(value: object) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


def _chat_head(form: _Form, kind: str) -> Value:
    return {
        "id": form.id,
        "object": kind,
        "created": form.created,
        "model": form.model,
        "system_fingerprint": "fp_ollama",
    }


async def _chat_chunks(speech: Speech, form: _Form) -> AsyncGenerator[bytes, None]:
    head = _chat_head(form, "chat.completion.chunk")

    def chunk(delta: Value, finish: str | None = None, **other: object) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return _event({**head, **other, "choices": [choice]})

    first = True
    async with aclosing(speech):
        try:
            async for said in speech:
                role: Value = {"role": "assistant"} if first or not form.modern else {}
                if isinstance(said, str):
                    yield chunk({**role, "content": said})
                else:
                    last = {} if form.modern else {**role, "content": ""}
                    end = chunk(last, said.reason)
                    if form.usage:
                        end += _event({**head, "choices": [], "usage": usage(said)})
                    yield end + b"data: [DONE]\n\n"
                first = False
        except RunFailed:
            if first:
                raise
            role = {} if form.modern else {"role": "assistant"}
            yield chunk({**role, "content": ""}, model="")


async def _text_chunks(speech: Speech, form: _Form) -> AsyncGenerator[bytes, None]:
    nothing = Said("", -PROMPT_TOKENS, "", 0, 0)
    zero = {**usage(nothing), "prompt_tokens": 0, "completion_tokens": 0}

    def chunk(choices: list[Value], model: str, counted: Value) -> bytes:
        value = {"id": form.id, "object": "text_completion", "created": form.created}
        tail = {"usage": counted} if form.usage else {}
        known = {"model": model, "system_fingerprint": "fp_ollama"}
        return _event({**value, "choices": choices, **known, **tail})

    first = True
    async with aclosing(speech):
        try:
            async for said in speech:
                text, reason = (said, None) if isinstance(said, str) else ("", said.reason)
                choice: Value = {"text": text, "index": 0, "finish_reason": reason}
                piece = chunk([choice], form.model, zero)
                if isinstance(said, Said):
                    piece += chunk([], form.model, usage(said)) if form.usage else b""
                    piece += b"data: [DONE]\n\n"
                yield piece
                first = False
        except RunFailed:
            if first:
                raise
            yield chunk([{"text": "", "index": 0, "finish_reason": None}], "", zero)
