"""What a case is, and how its bytes are put together."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.live.exchange import Script

HOST = "127.0.0.1:11434"
"""Sent to every server, whatever its port, so that both see the same bytes."""


@dataclass(frozen=True, slots=True)
class Case:
    """A named script and what follows it on the same connection.

    `before` is played first on each server, on connections of its own.
    """

    name: str
    script: Script
    before: tuple[Script, ...] = ()
    then: tuple[Script, ...] = ()


def head(method: str, target: str, *headers: str, host: str | None = HOST) -> bytes:
    """Return a request head of HTTP/1.1 without its empty line."""
    rows = [f"{method} {target} HTTP/1.1", *([] if host is None else [f"Host: {host}"]), *headers]
    return "".join(f"{row}\r\n" for row in rows).encode()


def ask(method: str, target: str, *headers: str, host: str | None = HOST) -> Script:
    """Make a request without a body."""
    sent = head(method, target, *headers, host=host) + b"\r\n"
    return Script(sent, head_only=method == "HEAD")


def send(target: str, body: object, *headers: str, method: str = "POST") -> Script:
    """Make a request with a body of known length; what is not bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Script(head(method, target, *headers, f"Content-Length: {len(raw)}") + b"\r\n" + raw)


def chunked(target: str, body: bytes, *headers: str, size: int = 7) -> Script:
    """Make a POST whose body comes in chunks of `size` bytes."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return Script(head("POST", target, *headers, "Transfer-Encoding: chunked") + b"\r\n" + framed)


def get(name: str, target: str, *headers: str, host: str | None = HOST) -> Case:
    return Case(name, ask("GET", target, *headers, host=host))


def post(name: str, target: str, body: object, *headers: str) -> Case:
    return Case(name, send(target, body, *headers))
