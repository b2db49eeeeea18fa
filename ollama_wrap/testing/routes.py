"""Which handler answers which path, and what gin and Go say to all others.

Owns: the table, redirects, 404, 405, Allow, and the order of the checks.
Must not know: what a handler does.
"""

import html
import posixpath
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

from ollama_wrap.testing import agents, lists, management, native, openai
from ollama_wrap.testing.daemon import Daemon
from ollama_wrap.testing.errors import Refused, Shape, refusal
from ollama_wrap.testing.guards import check
from ollama_wrap.testing.reply import Reply
from ollama_wrap.testing.request import Request

Handler = Callable[[Daemon, Request], Awaitable[Reply]]
#: The order in which gin names methods in Allow
_TREES = ("HEAD", "GET", "POST", "DELETE")


@dataclass(frozen=True, slots=True)
class Route:
    """One path; a last segment of ``*`` stands for any one segment."""

    methods: str
    path: str
    handler: Handler
    shape: Shape = Shape.NATIVE
    #: Whether the handler reads the body itself
    streams: bool = False


ROUTES = (
    Route("HEAD GET", "/", lists.root),
    Route("HEAD GET", "/api/version", lists.version),
    Route("GET", "/api/status", lists.status),
    Route("HEAD GET", "/api/tags", lists.tags),
    Route("GET", "/api/ps", lists.ps),
    Route("POST", "/api/show", lists.show),
    Route("POST", "/api/generate", native.generate),
    Route("POST", "/api/chat", native.chat),
    Route("POST", "/api/embed", native.embed),
    Route("POST", "/api/embeddings", native.embeddings),
    Route("POST", "/api/pull", management.pull),
    Route("POST", "/api/push", management.push),
    Route("POST", "/api/create", management.create),
    Route("POST", "/api/copy", management.copy),
    Route("DELETE", "/api/delete", management.delete),
    Route("HEAD", "/api/blobs/*", management.blob_head),
    Route("POST", "/api/blobs/*", management.blob_post, streams=True),
    Route("POST", "/api/me", lists.account),
    Route("POST", "/api/signout", lists.signout),
    Route("DELETE", "/api/user/keys/*", lists.signout),
    Route("POST", "/api/experimental/web_search", lists.account),
    Route("POST", "/api/experimental/web_fetch", lists.account),
    Route("GET", "/api/experimental/model-recommendations", lists.recommendations),
    Route("POST", "/v1/chat/completions", openai.chat, Shape.OPENAI),
    Route("POST", "/v1/completions", openai.completion, Shape.OPENAI),
    Route("POST", "/v1/embeddings", openai.embeddings, Shape.OPENAI),
    Route("GET", "/v1/models", lists.models, Shape.OPENAI),
    Route("GET", "/v1/models/*", lists.model, Shape.OPENAI),
    Route("POST", "/v1/responses", agents.responses, Shape.OPENAI),
    Route("POST", "/v1/messages", agents.messages, Shape.ANTHROPIC),
    Route("POST", "/v1/audio/transcriptions", openai.transcription, Shape.OPENAI),
)


def find(method: str, path: str) -> Route | None:
    """Return the route for a method and a decoded path."""
    return next((r for r in _at(path) if method in r.methods.split()), None)


async def answer(daemon: Daemon, request: Request) -> Reply:
    """Return stock's answer, whatever the request is."""
    if request.path == "*":
        return Reply(200)
    route = find(request.method, request.path)
    # Redirects are made before any middleware runs: no CORS, no Host check.
    away = _redirect(request, known=route is not None)
    if away is not None:
        return away
    verdict = check(request, daemon.options.origins, public=daemon.options.public)
    if verdict.reply is not None:
        reply = verdict.reply
    elif route is None:
        reply = _nothing_here(request)
    else:
        reply = await _handled(daemon, route, request)
    if route is None and (allowed := _allowed(request.path)):
        reply.headers.append(("Allow", allowed))
    reply.headers += verdict.headers
    return reply


async def _handled(daemon: Daemon, route: Route, request: Request) -> Reply:
    try:
        return await route.handler(daemon, request)
    except Refused as refused:
        return refusal(refused, route.shape)


def _at(path: str) -> list[Route]:
    return [route for route in ROUTES if _matches(route.path, path)]


def _matches(pattern: str, path: str) -> bool:
    if not pattern.endswith("*"):
        return pattern == path
    rest = path.removeprefix(pattern[:-1])
    return rest not in {"", path} and "/" not in rest


def _allowed(path: str) -> str:
    methods = {method for route in _at(path) for method in route.methods.split()}
    return ", ".join(method for method in _TREES if method in methods)


def _nothing_here(request: Request) -> Reply:
    text = [("Content-Type", "text/plain")]
    if _at(request.path):
        return Reply(405, text, b"405 method not allowed")
    return Reply(404, text, b"404 page not found")


def _redirect(request: Request, *, known: bool) -> Reply | None:
    """Return Go's redirect of an unclean path, or gin's of a slash too many."""
    clean = posixpath.normpath("/" + request.path.lstrip("/"))
    if request.path.endswith("/") and clean != "/":
        clean += "/"
    query = request.target.partition("?")[1:]
    if clean != request.path:
        return _moved(request, 307, clean, "".join(query))
    short = clean.rstrip("/")
    if known or short == clean or not short or find(request.method, short) is None:
        return None
    return _moved(request, 301 if request.method == "GET" else 307, short, "".join(query))


def _moved(request: Request, status: int, path: str, query: str) -> Reply:
    location = quote(path, safe="/:@!$&'()*+,;=~") + query
    headers = [("Location", location)]
    if request.method not in {"GET", "HEAD"}:
        return Reply(status, headers)
    text = {301: "Moved Permanently", 307: "Temporary Redirect"}[status]
    body = f'<a href="{html.escape(location)}">{text}</a>.\n\n'.encode()
    headers.append(("Content-Type", "text/html; charset=utf-8"))
    return Reply(
        status, headers, body if request.method == "GET" else b"", request.method == "HEAD"
    )
