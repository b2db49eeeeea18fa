"""What changes a node's models: pull, push, create, copy, delete, blobs.

Owns: their progress lines and their effect on the store. Must not know: how a model runs.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

from ollama_wrap.testing.daemon import Daemon, Fields, text_of
from ollama_wrap.testing.errors import Refused
from ollama_wrap.testing.gojson import encode
from ollama_wrap.testing.lists import MODELS_FOLDER
from ollama_wrap.testing.names import BadNameError, Name, parse
from ollama_wrap.testing.native import begun
from ollama_wrap.testing.reply import NDJSON, PLAIN_JSON, Reply, json_reply
from ollama_wrap.testing.request import Request
from ollama_wrap.testing.speech import RunFailed
from ollama_wrap.testing.store import Model, hexed, made

TARGET: Fields = {"model": "string", "name": "string", "stream": "bool", "insecure": "bool"}
CREATE: Fields = {
    **TARGET,
    "from": "string",
    "files": "map[string]string",
    "adapters": "map[string]string",
    "template": "string",
    "system": "string",
    "quantize": "string",
    "remote_host": "string",
}
COPY: Fields = {"source": "string", "destination": "string"}
_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}\Z")
_NO_MANIFEST = "pull model manifest: file does not exist"
#: Absolute, or with a folder of dots in it
_ABSOLUTE = re.compile(r"/|.*(^|/)\.\.?(/|$)")
#: Lines with a growing `completed`, for each layer
_PROGRESS_STEPS = 4

Lines = AsyncGenerator[dict[str, object], None]


async def pull(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/pull."""
    body = daemon.fields(request, "PullRequest", TARGET)
    name = _target(text_of(body, "model", "name"))
    return await _progress(body, _pulling(daemon, name, _pace(daemon, request)))


async def push(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/push."""
    body = daemon.fields(request, "PushRequest", TARGET)
    asked = text_of(body, "model", "name")
    if not asked:
        raise Refused(400, "model is required")
    return await _progress(body, _pushing(daemon, _target(asked), _pace(daemon, request)))


async def create(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/create."""
    body = daemon.fields(request, "CreateRequest", CREATE)
    name = _target(text_of(body, "model", "name"))
    files = body.get("files")
    if isinstance(files, dict) and any(_ABSOLUTE.match(path) for path in files):
        raise Refused(400, "file path must be relative")
    return await _progress(body, _creating(daemon, name, body, _pace(daemon, request)))


async def copy(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/copy."""
    body = daemon.fields(request, "CopyRequest", COPY)
    source, destination = text_of(body, "source"), text_of(body, "destination")
    try:
        found, to = daemon.store.find(parse(source)), parse(destination)
    except BadNameError:
        bad = "source" if not _valid(source) else "destination"
        raise Refused(400, f'{bad} "{body.get(bad, "")}" is invalid') from None
    if found is None:
        raise Refused(404, f'model "{source}" not found')
    daemon.store.copy(found, to)
    return Reply(200)


async def delete(daemon: Daemon, request: Request) -> Reply:
    """Answer DELETE /api/delete; a model that runs keeps running."""
    asked = text_of(daemon.fields(request, "DeleteRequest", TARGET), "model", "name")
    if not asked:
        raise Refused(400, "model is required")
    if not _valid(asked):
        raise Refused(400, f"name {encode(asked).decode()} is invalid")
    if daemon.store.find(parse(asked)) is None:
        raise Refused(404, f"model '{asked}' not found")
    daemon.store.remove(parse(asked))
    return Reply(200)


async def blob_head(daemon: Daemon, request: Request) -> Reply:
    """Answer HEAD /api/blobs/{digest}."""
    digest = _digest(request)
    if digest not in daemon.store.blobs:
        raise Refused(404, f'blob "{digest}" not found')
    return Reply(200, unsized=True)


async def blob_post(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/blobs/{digest}: only the hash and the size of what comes is kept."""
    digest = _digest(request)
    if digest in daemon.store.blobs:
        return Reply(200)
    seen, size = sha256(), 0
    async with aclosing(request.pieces()) as pieces:
        async for piece in pieces:
            seen.update(piece)
            size += len(piece)
    got = f"sha256:{seen.hexdigest()}"
    if request.entry is not None:
        request.entry.body_size, request.entry.body_sha256 = size, seen.hexdigest()
    # Stock keeps a blob under its true digest even if another one was announced.
    daemon.store.blobs[got] = size
    if got != digest:
        raise Refused(400, f'digest mismatch, expected "{digest}", got "{got}"')
    return Reply(201)


def _valid(text: str) -> bool:
    try:
        parse(text)
    except BadNameError:
        return False
    return True


def _target(text: str) -> Name:
    try:
        return parse(text)
    except BadNameError as error:
        raise Refused(400, str(error)) from None


def _digest(request: Request) -> str:
    digest = request.path.rpartition("/")[2]
    if not _DIGEST.match(digest):
        raise Refused(400, "invalid digest format")
    return digest.replace("-", ":", 1)


def _pace(daemon: Daemon, request: Request) -> float:
    delay = request.rule.token_delay
    return daemon.options.token_delay if delay is None else delay


async def _progress(body: Mapping[str, object], lines: Lines) -> Reply:
    """Send the lines as a stream, or wait for the last of them."""
    if body.get("stream") is not False:
        return Reply(200, [("Content-Type", NDJSON)], await begun(_encoded(lines)))
    # Without a stream only the last line is sent, and an error takes its status along.
    last: dict[str, object] = {}
    try:
        async with aclosing(lines):
            async for line in lines:
                last = line
    except RunFailed as error:
        return json_reply({"error": error.text}, error.status, PLAIN_JSON)
    return json_reply(last, kind=PLAIN_JSON)


async def _encoded(lines: Lines) -> AsyncGenerator[bytes, None]:
    first = True
    async with aclosing(lines):
        try:
            async for line in lines:
                first = False
                yield encode(line) + b"\n"
        except RunFailed as error:
            if first:
                raise
            yield encode({"error": error.text}) + b"\n"


async def _pulling(daemon: Daemon, name: Name, pace: float) -> Lines:
    yield {"status": "pulling manifest"}
    await asyncio.sleep(pace)
    # What is here is found in the registry too, so that a model can be pulled twice.
    found = daemon.store.find(name)
    offered = {parse(text).key for text in daemon.options.registry if text != "*"}
    if found is None and "*" not in daemon.options.registry and name.key not in offered:
        raise RunFailed(500, _NO_MANIFEST)
    model = found or made(name.short, datetime.now(UTC))
    async with aclosing(_layer("pulling", model, pace)) as lines:
        async for line in lines:
            yield line
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    daemon.store.add(model)
    yield {"status": "success"}


async def _pushing(daemon: Daemon, name: Name, pace: float) -> Lines:
    yield {"status": "retrieving manifest"}
    model = daemon.store.find(name)
    if model is None:
        yield {"status": "couldn't retrieve manifest"}
        file = f"{name.host}/{name.namespace}/{name.model}/{name.tag}"
        text = f"open {MODELS_FOLDER}/manifests/{file}: no such file or directory"
        raise RunFailed(500, text)
    async with aclosing(_layer("pushing", model, pace)) as lines:
        async for line in lines:
            yield line
    yield {"status": "pushing manifest"}
    yield {"status": "success"}


async def _layer(verb: str, model: Model, pace: float) -> Lines:
    status = f"{verb} {model.weights[:12]}"
    whole = {"status": status, "digest": f"sha256:{model.weights}", "total": model.size}
    yield dict(whole)
    for step in range(1, _PROGRESS_STEPS + 1):
        await asyncio.sleep(pace)
        yield {**whole, "completed": model.size * step // _PROGRESS_STEPS}


async def _creating(daemon: Daemon, name: Name, body: Mapping[str, object], pace: float) -> Lines:
    origin, files = text_of(body, "from"), body.get("files")
    if origin:
        base = daemon.store.exact(_target(origin))
        # A base that is not here is pulled first, its progress in the same stream.
        if base is None:
            async with aclosing(_pulling(daemon, _target(origin), pace)) as lines:
                async for line in lines:
                    yield line
            base = daemon.store.exact(_target(origin)) or made(origin, datetime.now(UTC))
    elif isinstance(files, dict) and files:
        yield {"status": "parsing GGUF"}
        base = _imported(daemon, [str(digest) for digest in files.values()])
    else:
        raise RunFailed(400, "neither 'from' or 'files' was specified")
    model = _changed(base, name, body)
    yield {"status": f"using existing layer sha256:{model.weights}"}
    # A layer that the base has already is used again.
    known = base.template == model.template and bool(origin)
    verb = "using existing" if known else "creating new"
    yield {"status": f"{verb} layer sha256:{hexed(model.template)}"}
    if model.system:
        yield {"status": f"creating new layer sha256:{hexed(model.system)}"}
    yield {"status": "writing manifest"}
    daemon.store.add(model)
    yield {"status": "success"}


def _imported(daemon: Daemon, digests: list[str]) -> Model:
    for digest in digests:
        if digest not in daemon.store.blobs:
            file = digest.replace(":", "-")
            text = f"open {MODELS_FOLDER}/blobs/{file}: no such file or directory"
            raise RunFailed(500, text)
    # The first file stands for all: nobody runs this model.
    weights = digests[0].partition(":")[2]
    size = daemon.store.blobs[digests[0]]
    return replace(made("imported", datetime.now(UTC)), weights=weights, size=size)


def _changed(base: Model, name: Name, body: Mapping[str, object]) -> Model:
    """Return the new model: the same inputs give the same digest on every node."""
    template = text_of(body, "template") or base.template
    system = text_of(body, "system") or base.system
    return replace(
        base,
        name=name.short,
        digest=hexed(f"{base.weights} {template} {system} {text_of(body, 'remote_host')}"),
        modified=datetime.now(UTC),
        template=template,
        system=system,
        remote_host=text_of(body, "remote_host"),
        remote_model=text_of(body, "from") if body.get("remote_host") else "",
    )
