"""Steering a fake from outside its process: `/_fake/*`.

Owns: those routes. Must not know: how a rule is carried out. None of its calls is in the ledger.
"""

import json
from dataclasses import asdict
from datetime import UTC, datetime

from ollama_wrap.testing.daemon import Daemon
from ollama_wrap.testing.reply import Reply
from ollama_wrap.testing.request import Request
from ollama_wrap.testing.script import from_json
from ollama_wrap.testing.store import made

PREFIX = "/_fake/"


async def control(daemon: Daemon, request: Request) -> Reply:
    """Answer a call to the fake itself: script, ledger, counts, models, reset."""
    try:
        value = _done(daemon, f"{request.method} {request.path.removeprefix(PREFIX)}", request)
    except (TypeError, ValueError) as error:
        return _reply({"error": str(error)}, 400)
    return _reply(value) if value is not None else _reply({"error": "no such call"}, 404)


def _done(daemon: Daemon, call: str, request: Request) -> dict[str, object] | None:
    match call:
        case "GET ledger":
            return daemon.ledger.as_json()
        case "GET counts":
            return {"counts": asdict(daemon.ledger.counts)}
        case "POST script":
            rules = _items(request)
            daemon.script.add(*[from_json(rule) for rule in rules if isinstance(rule, dict)])
            return {"added": len(rules)}
        case "POST models":
            names = [str(name) for name in _items(request)]
            for name in names:
                daemon.store.add(made(name, datetime.now(UTC)))
            return {"added": len(names)}
        case "POST reset":
            daemon.script.clear()
            daemon.ledger.reset()
            return {"reset": True}
    return None


def _items(request: Request) -> list[object]:
    given: object = json.loads(request.raw)
    return given if isinstance(given, list) else [given]


def _reply(value: dict[str, object], status: int = 200) -> Reply:
    body = json.dumps(value).encode()
    return Reply(status, [("Content-Type", "application/json")], body)
