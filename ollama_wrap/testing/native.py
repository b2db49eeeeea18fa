"""The native inference routes: generate, chat, embed, embeddings.

Owns: their items and answers, loading and unloading. Must not know: the /v1 routes.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime

from ollama_wrap.testing.daemon import Daemon, Fields, keep_alive, text_of
from ollama_wrap.testing.errors import Refused
from ollama_wrap.testing.gojson import encode
from ollama_wrap.testing.reply import NDJSON, Reply, json_reply
from ollama_wrap.testing.request import Request
from ollama_wrap.testing.sched import Wish
from ollama_wrap.testing.speech import PROMPT_TOKENS, RunFailed, Said, tokens_of
from ollama_wrap.testing.store import Model

_COMMON = {"model": "string", "stream": "bool", "options": "map[string]interface {}"}
GENERATE: Fields = _COMMON | {
    "prompt": "string",
    "suffix": "string",
    "system": "string",
    "template": "string",
    "context": "[]int",
    "raw": "bool",
    "images": "[]api.ImageData",
}
CHAT: Fields = _COMMON | {"messages": "[]api.Message", "tools": "[]api.Tool"}
EMBED: Fields = {key: _COMMON[key] for key in ("model", "options")} | {"truncate": "bool"}
EMBEDDINGS: Fields = {key: _COMMON[key] for key in ("model", "options")} | {"prompt": "string"}
_TRY_PULLING = 'model "{}" not found, try pulling it first'
#: The recorded model gives every text this vector
VECTOR = (0.18257418, 0.36514837, 0.5477226, 0.73029673)
_LEGACY_VECTOR = (0.10000000149011612, 0.20000000298023224, 0.30000001192092896, 0.4000000059604645)
#: Tokens of any text, as recorded
EMBED_TOKENS = 3

Item = Callable[[str], dict[str, object]]


def now() -> str:
    """Return the time as Go prints it, with nine digits that do not end in 0."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "001Z"


async def generate(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/generate."""
    body = daemon.fields(request, "GenerateRequest", GENERATE)
    asked, prompt = str(body.get("model", "")), text_of(body, "prompt")
    if not asked.strip():
        raise Refused(404, "model '' not found")
    model = daemon.runnable(asked)

    def item(said: str) -> dict[str, object]:
        # The name goes back as the client spelled it.
        return {"model": asked, "created_at": now(), "response": said}

    wish = daemon.wish(request, model, body)
    # Nothing to say: the model is loaded, or unloaded, and that is all.
    if not prompt and not body.get("images"):
        return await _load(daemon, wish, item)
    _capable(model, asked, body, "generate")
    # A raw prompt leaves no context to go on from.
    context = None if body.get("raw") else prompt
    return await _answered(daemon, request, wish, (body, item, context))


async def chat(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/chat."""
    body = daemon.fields(request, "ChatRequest", CHAT)
    asked = str(body.get("model", ""))
    if not asked.strip():
        raise Refused(400, "model is required")
    daemon.name(asked)
    model = daemon.runnable(asked)

    def item(said: str) -> dict[str, object]:
        message = {"role": "assistant", "content": said}
        return {"model": asked, "created_at": now(), "message": message}

    wish = daemon.wish(request, model, body)
    if not body.get("messages"):
        return await _load(daemon, wish, item)
    _capable(model, asked, body, "chat")
    return await _answered(daemon, request, wish, (body, item, None))


async def embed(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/embed."""
    body = daemon.fields(request, "EmbedRequest", EMBED)
    asked, given = str(body.get("model", "")), body.get("input", "")
    if not asked.strip():
        raise Refused(404, "model '' not found")
    model = _embedding(daemon, asked)
    inputs = given if isinstance(given, list) else [given] if given else []
    wish = daemon.wish(request, model, body)
    load = await embedded(daemon, request, wish)
    value: dict[str, object] = {"model": asked, "embeddings": [VECTOR for _ in inputs]}
    if inputs:
        tokens = EMBED_TOKENS * len(inputs)
        value |= {"total_duration": load + 1, "load_duration": load, "prompt_eval_count": tokens}
    return json_reply(value)


async def embeddings(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/embeddings, which compares names with their case."""
    body = daemon.fields(request, "EmbeddingRequest", EMBEDDINGS)
    asked = str(body.get("model", ""))
    if not asked.strip():
        raise Refused(400, "model is required")
    model = daemon.store.exact(daemon.name(asked))
    if model is None or model.remote_host:
        raise Refused(404, _TRY_PULLING.format(asked))
    await embedded(daemon, request, daemon.wish(request, model, body))
    return json_reply({"embedding": _LEGACY_VECTOR if body.get("prompt") else []})


async def embedded(daemon: Daemon, request: Request, wish: Wish) -> int:
    """Run an embedding, which nobody sees, and return the load's nanoseconds. Raises Refused."""
    load = 1
    async with aclosing(daemon.voice.speak(wish, request.rule, 1)) as speech:
        try:
            async for said in speech:
                load = said.load if isinstance(said, Said) else load
        except RunFailed as error:
            raise Refused(error.status, error.text) from None
    return load


def find_embedding(daemon: Daemon, asked: str) -> Model:
    """Return the model for an embedding route. Raises Refused."""
    return _embedding(daemon, asked)


def limit_of(body: Mapping[str, object]) -> int | None:
    """Return the number of tokens that a native body allows; None: no limit."""
    options = body.get("options")
    most = options.get("num_predict") if isinstance(options, dict) else None
    return most if isinstance(most, int) and most > 0 else None


def _embedding(daemon: Daemon, asked: str) -> Model:
    model = daemon.store.find(daemon.name(asked))
    if model is None or model.remote_host:
        raise Refused(404, _TRY_PULLING.format(asked))
    return model


def _capable(model: Model, asked: str, body: Mapping[str, object], what: str) -> None:
    # In stock's order: the first that is lacking is the one that is said.
    if "completion" not in model.capabilities:
        raise Refused(400, f'"{asked}" does not support {what}')
    if body.get("tools") and "tools" not in model.capabilities:
        raise Refused(400, f"registry.ollama.ai/library/{model.name} does not support tools")
    if body.get("suffix") and "insert" not in model.capabilities:
        raise Refused(400, f"registry.ollama.ai/library/{model.name} does not support insert")
    if body.get("think") and "thinking" not in model.capabilities:
        raise Refused(400, f'"{asked}" does not support thinking')


async def _load(daemon: Daemon, wish: Wish, item: Item) -> Reply:
    """Load without a word, or unload if the keep-alive is 0."""
    # Unloading needs no place in the queue; loading waits as any request does.
    unload = wish.keep_alive == keep_alive(0)
    if unload:
        daemon.scheduler.unload(wish.model)
    else:
        async with daemon.scheduler.runner(wish):
            pass
    reason = "unload" if unload else "load"
    return json_reply({**item(""), "done": True, "done_reason": reason})


async def _answered(
    daemon: Daemon,
    request: Request,
    wish: Wish,
    form: tuple[Mapping[str, object], Item, str | None],
) -> Reply:
    body, item, context = form
    speech = daemon.voice.speak(wish, request.rule, limit_of(body))
    if body.get("stream") is not False:
        return Reply(200, [("Content-Type", NDJSON)], await begun(_lines(speech, item, context)))
    said = await whole(speech)
    return json_reply({**item(said.text), **_last(said, context)})


async def _lines(
    speech: AsyncGenerator[str | Said, None], item: Item, context: str | None
) -> AsyncGenerator[bytes, None]:
    """Yield a line a token; an error after the first one is a line too."""
    first = True
    async with aclosing(speech):
        try:
            async for said in speech:
                first = False
                if isinstance(said, str):
                    yield encode({**item(said), "done": False}) + b"\n"
                else:
                    yield encode({**item(""), **_last(said, context)}) + b"\n"
        except RunFailed as error:
            if first:
                raise
            yield encode({"error": error.text}) + b"\n"


async def begun(pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Wait for the first piece, for status and headers go with it. Raises Refused."""
    try:
        first = await anext(pieces, b"")
    except RunFailed as error:
        raise Refused(error.status, error.text, flushed=True) from None

    async def rest() -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            if first:
                yield first
            async for piece in pieces:
                yield piece

    return rest()


async def whole(speech: AsyncGenerator[str | Said, None]) -> Said:
    """Listen to the end. Raises Refused."""
    text, count = "", 0
    async with aclosing(speech):
        try:
            async for said in speech:
                if isinstance(said, Said):
                    return said
                text, count = text + said, count + 1
        except RunFailed as error:
            raise Refused(error.status, error.text) from None
    # `silent_end`: the engine stopped without its last word.
    return Said(text, count, "", 1, 1)


def _last(said: Said, context: str | None) -> dict[str, object]:
    value: dict[str, object] = {"done": True}
    if said.reason:
        value["done_reason"] = said.reason
    if context is not None:
        value["context"] = tokens_of(context + said.text)
    return value | {
        "total_duration": said.total,
        "load_duration": said.load,
        "prompt_eval_count": PROMPT_TOKENS,
        "prompt_eval_duration": 3_500_000,
        "eval_count": said.tokens,
        "eval_duration": 9_250_000,
    }
