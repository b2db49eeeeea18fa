"""The door to httpx2: one client a node, for questions of our own.

Only httpx2's transport is used, so that by construction no cookie is kept, no
redirect followed, no proxy or `.netrc` read from the environment, and no line
logged for a probe. Owns headers, limits and the translation of errors; must not
know what the answers mean.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from ollama_wrap.call import Header
from ollama_wrap.errors import (
    BadReply,
    ConnectFailed,
    StreamBroken,
    UpstreamError,
    UpstreamTimeout,
)
from ollama_wrap.nodes.node import Node
from ollama_wrap.nodes.upstream import Upstream

#: asks a sidecar to answer for its own Ollama alone; it only restricts, and stock ignores it
HOP: Header = (b"X-Ollama-Hop", b"1")
#: seconds that an idle connection is kept
IDLE = 30.0
#: connections kept idle: a probe and a list can be under way at once
KEPT = 2
#: share of the time in which connections must be made, so that a node that takes none shows as such
CONNECTING = 0.8

#: httpx2's words for a connection that ended before the answer did; to it a protocol error
_ENDED = ("Server disconnected", "peer closed connection")
#: theirs to ours; the first that fits
_ERRORS: tuple[tuple[type[Exception], type[UpstreamError]], ...] = (
    (httpx2.ConnectError, ConnectFailed),
    (httpx2.InvalidURL, ConnectFailed),
    (httpx2.TimeoutException, UpstreamTimeout),
    (httpx2.NetworkError, StreamBroken),
    (httpx2.HTTPError, BadReply),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer and the address that gave it."""

    status: int
    body: bytes
    address: str


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask: `cap` is the most bytes that a body may have, `seconds` the time in all."""

    path: str
    cap: int
    seconds: float
    method: str = "GET"
    headers: tuple[Header, ...] = ()


class Client:
    """The connections to one node, made to the addresses that its Upstream has.

    The number of connections is not limited: callers that are cancelled while a
    limited pool is full have left such pools unusable.
    """

    def __init__(self, upstream: Upstream, tls: Callable[[], ssl.SSLContext]) -> None:
        """`tls` makes the context that a node with https is checked with."""
        self._upstream = upstream
        self._transport = httpx2.AsyncHTTPTransport(
            verify=tls() if upstream.node.scheme == "https" else _nobody(),
            trust_env=False,
            limits=httpx2.Limits(max_keepalive_connections=KEPT, keepalive_expiry=IDLE),
        )

    async def ask(self, question: Question) -> Answer:
        """Send it; one address after the other while no connection can be made.

        Raises ConnectFailed, UpstreamTimeout, StreamBroken or BadReply.
        """
        addresses = self._upstream.addresses
        if not addresses:
            raise ConnectFailed(f"{self._upstream.node.host} does not resolve")
        # An address that swallows everything must leave time for the others.
        patience = CONNECTING * question.seconds / len(addresses)
        try:
            async with asyncio.timeout(question.seconds):
                for address in addresses[:-1]:
                    try:
                        return await self._ask(address, question, patience)
                    except (ConnectFailed, _ConnectTimeout):
                        continue
                return await self._ask(addresses[-1], question, patience)
        except TimeoutError:
            raise UpstreamTimeout(f"no answer within {question.seconds:g} s") from None

    async def close(self) -> None:
        await self._transport.aclose()

    async def _ask(self, address: str, question: Question, patience: float) -> Answer:
        try:
            return await self._exchange(address, question, patience)
        except StreamBroken:
            # An idle connection may have ended meanwhile; that one is gone now.
            return await self._exchange(address, question, patience)

    async def _exchange(self, address: str, question: Question, patience: float) -> Answer:
        with _translated():
            request = _request(self._upstream.node, address, question, patience)
            response = await self._transport.handle_async_request(request)
            try:
                body = await _body(response, question.cap)
            finally:
                await response.aclose()
        return Answer(response.status_code, body, address)


class _ConnectTimeout(UpstreamTimeout):
    """The next address may do better."""

    sent = False


def _nobody() -> ssl.SSLContext:
    """Trusts nobody; where there is no TLS, reading the system's certificates is spared."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _request(node: Node, address: str, question: Question, patience: float) -> httpx2.Request:
    url = httpx2.URL(
        scheme=node.scheme,
        host=address,
        port=node.port,
        raw_path=(node.prefix + question.path).encode("ascii"),
    )
    # The time in all is kept by `ask`.
    timeout = {"connect": patience}
    extensions = {"timeout": timeout, "sni_hostname": node.host}
    headers = _headers(node, question.headers)
    return httpx2.Request(question.method, url, headers=headers, extensions=extensions)


def _headers(node: Node, more: Sequence[Header]) -> list[Header]:
    given = (*node.headers, *more)
    named = {name.lower() for name, _ in given}
    ours = [
        (b"Host", host_header(node)),
        (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"identity"),
        (b"User-Agent", b"ollama-wrap"),
        *(() if node.local else (HOP,)),
    ]
    return [*(field for field in ours if field[0].lower() not in named), *given]


def host_header(node: Node) -> bytes:
    """The node's own name as clients write it in `Host`, without the scheme's usual port."""
    name = f"[{node.host}]" if ":" in node.host else node.host
    usual = {"http": 80, "https": 443}[node.scheme]
    return (name if node.port == usual else f"{name}:{node.port}").encode("ascii")


async def _body(response: httpx2.Response, cap: int) -> bytes:
    # A list of a few bytes could unpack to gigabytes.
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BadReply("the answer is encoded, which was not asked for")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > cap:
            raise BadReply(f"the answer is longer than {cap} bytes")
    return bytes(body)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise _ConnectTimeout("no connection in time") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        text = str(error) or type(error).__name__
        ours = next(ours for theirs, ours in _ERRORS if isinstance(error, theirs))
        raise (StreamBroken if text.startswith(_ENDED) else ours)(text) from error
