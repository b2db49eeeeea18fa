"""What a node says of its models: tags, ps, show, /v1/models, and small facts of its own.

Owns: those answers. Must not know: how a model runs or is changed.
"""

from datetime import datetime

from ollama_wrap.testing.daemon import Daemon, Fields, text_of
from ollama_wrap.testing.errors import Refused
from ollama_wrap.testing.names import BadNameError, parse
from ollama_wrap.testing.reply import PLAIN_JSON, Reply, json_reply
from ollama_wrap.testing.request import Request
from ollama_wrap.testing.store import Model

SHOW: Fields = {"model": "string", "name": "string", "verbose": "bool"}
MODELS_FOLDER = "/usr/share/ollama/.ollama/models"
#: What a model's file has that is not loaded: the recorded one is that much larger on disk
_HEADER_BYTES = 161


async def root(daemon: Daemon, request: Request) -> Reply:
    """Answer GET and HEAD /."""
    return Reply(200, [("Content-Type", "text/plain; charset=utf-8")], b"Ollama is running")


async def version(daemon: Daemon, request: Request) -> Reply:
    """Answer GET and HEAD /api/version."""
    return json_reply({"version": daemon.options.version})


async def status(daemon: Daemon, request: Request) -> Reply:
    """Answer GET /api/status."""
    return json_reply({"cloud": {"disabled": False, "source": "none"}})


async def account(daemon: Daemon, request: Request) -> Reply:
    """Answer what needs an account, which no fake has."""
    raise daemon.unauthorized()


async def signout(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/signout and its old alias."""
    return json_reply(None)


async def recommendations(daemon: Daemon, request: Request) -> Reply:
    """Answer GET /api/experimental/model-recommendations."""
    return json_reply({"recommendations": []})


async def tags(daemon: Daemon, request: Request) -> Reply:
    """Answer GET and HEAD /api/tags."""
    return json_reply({"models": [_tag(m, daemon) for m in daemon.store.listed()]})


async def ps(daemon: Daemon, request: Request) -> Reply:
    """Answer GET /api/ps: what is loaded, the last to expire first."""
    runners = sorted(daemon.scheduler.runners.values(), key=lambda r: r.expires, reverse=True)
    rows = [
        {
            "name": runner.model.name,
            "model": runner.model.name,
            "size": runner.model.size - _HEADER_BYTES,
            "digest": runner.model.digest,
            "details": details(runner.model),
            "expires_at": go_time(runner.expires),
            "size_vram": 0,
            "context_length": runner.model.context_length,
        }
        for runner in runners
    ]
    return json_reply({"models": rows})


async def models(daemon: Daemon, request: Request) -> Reply:
    """Answer GET /v1/models."""
    rows = [_v1_model(model, model.name) for model in daemon.store.listed()]
    return json_reply({"object": "list", "data": rows or None}, kind=PLAIN_JSON, end=b"\n")


async def model(daemon: Daemon, request: Request) -> Reply:
    """Answer GET /v1/models/{model}; the id is the name as asked."""
    asked = request.path.rpartition("/")[2]
    daemon.refuse_cloud(asked)
    return json_reply(_v1_model(_shown(daemon, asked), asked), kind=PLAIN_JSON, end=b"\n")


async def show(daemon: Daemon, request: Request) -> Reply:
    """Answer POST /api/show."""
    asked = text_of(daemon.fields(request, "ShowRequest", SHOW), "model", "name")
    if not asked:
        raise Refused(400, "model is required")
    daemon.refuse_cloud(asked)
    found = _shown(daemon, asked)
    value: dict[str, object] = {
        "modelfile": _modelfile(found),
        "template": found.template,
        **({"system": found.system} if found.system else {}),
        "details": details(found),
        "model_info": _gguf_facts(found),
        "tensors": _tensors(found),
        "capabilities": found.capabilities,
        "modified_at": go_time(found.modified),
    }
    if found.remote_host:
        value |= {"remote_model": found.remote_model, "remote_host": found.remote_host}
    return json_reply(value)


def details(model: Model) -> dict[str, object]:
    """Return what every list says of a model's making."""
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def go_time(moment: datetime) -> str:
    """Return a time as Go prints it, with nine digits."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "001Z"


def _shown(daemon: Daemon, asked: str) -> Model:
    try:
        name = parse(asked)
    except BadNameError as error:
        raise Refused(400, str(error)) from None
    found = daemon.store.find(name)
    if found is None:
        spelled = name.short if daemon.options.modern else asked
        raise Refused(404, f"model '{spelled}' not found")
    return found


def _tag(model: Model, daemon: Daemon) -> dict[str, object]:
    value: dict[str, object] = {"name": model.name, "model": model.name}
    if model.remote_host:
        value |= {"remote_model": model.remote_model, "remote_host": model.remote_host}
    value |= {
        "modified_at": go_time(model.modified),
        "size": model.size,
        "digest": model.digest,
        "details": details(model),
    }
    if daemon.options.modern:
        lengths = {
            "context_length": model.context_length,
            "embedding_length": model.embedding_length,
        }
        value["details"] = details(model) | lengths
        value["capabilities"] = model.capabilities
    return value


def _v1_model(model: Model, asked: str) -> dict[str, object]:
    namespace = parse(model.name).namespace
    created = int(model.modified.timestamp())
    return {"id": asked, "object": "model", "created": created, "owned_by": namespace}


def _modelfile(model: Model) -> str:
    system = f'SYSTEM "{model.system}"\n' if model.system else ""
    return (
        '# Modelfile generated by "ollama show"\n'
        "# To build a new Modelfile based on this, replace FROM with:\n"
        f"# FROM {model.name}\n\n"
        f"FROM {MODELS_FOLDER}/blobs/sha256-{model.weights}\n"
        f"TEMPLATE {model.template}\n{system}"
    )


def _gguf_facts(model: Model) -> dict[str, object]:
    family = model.family
    return {
        "general.architecture": family,
        "general.file_type": 1,
        "general.parameter_count": 115_008,
        f"{family}.attention.head_count": 4,
        f"{family}.attention.head_count_kv": 2,
        f"{family}.attention.layer_norm_rms_epsilon": 0.00001,
        f"{family}.block_count": 2,
        f"{family}.context_length": model.context_length,
        f"{family}.embedding_length": model.embedding_length,
        f"{family}.feed_forward_length": 128,
        f"{family}.rope.dimension_count": 16,
        f"{family}.rope.freq_base": 10_000,
        f"{family}.vocab_size": 320,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.token_type": None,
        "tokenizer.ggml.tokens": None,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def _tensors(model: Model) -> list[dict[str, object]]:
    width = model.embedding_length
    shapes: list[tuple[str, list[int]]] = [
        ("token_embd", [width, 320]),
        ("output", [width, 320]),
        ("output_norm", [width]),
    ]
    for block in ("blk.0", "blk.1"):
        shapes += [
            (f"{block}.attn_norm", [width]),
            (f"{block}.ffn_norm", [width]),
            (f"{block}.attn_q", [width, width]),
            (f"{block}.attn_k", [width, 32]),
            (f"{block}.attn_v", [width, 32]),
            (f"{block}.attn_output", [width, width]),
            (f"{block}.ffn_gate", [width, 128]),
            (f"{block}.ffn_up", [width, 128]),
            (f"{block}.ffn_down", [128, width]),
        ]
    return [
        {"name": f"{name}.weight", "type": "F32" if len(shape) == 1 else "F16", "shape": shape}
        for name, shape in shapes
    ]
