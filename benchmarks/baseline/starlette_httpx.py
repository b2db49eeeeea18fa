"""The proxy that anybody writes first: Starlette with one httpx client. Started under uvicorn."""

import os

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]
upstream = httpx.AsyncClient(
    base_url=f"http://{os.environ['UPSTREAM']}",
    timeout=None,
    trust_env=False,
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=1024),
)


async def relay(request: Request) -> StreamingResponse:
    headers = [(k, v) for k, v in request.headers.items() if k not in HOP_BY_HOP]
    with_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    target = httpx.URL(path=request.url.path, query=request.url.query.encode())
    content = request.stream() if with_body else None
    sent = upstream.build_request(request.method, target, headers=headers, content=content)
    reply = await upstream.send(sent, stream=True)
    kept = {k: v for k, v in reply.headers.items() if k not in HOP_BY_HOP}
    closing = BackgroundTask(reply.aclose)
    return StreamingResponse(reply.aiter_raw(), reply.status_code, kept, background=closing)


app = Starlette(routes=[Route("/{path:path}", relay, methods=METHODS)])
