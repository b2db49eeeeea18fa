"""A plain socket that speaks HTTP/1.1 as far as a test needs, and hides nothing of the answer."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

Headers = list[tuple[str, str]]


@dataclass
class RawReply:
    """One answer as it lay on the wire. `clean_end`: it ended as its framing says."""

    status: int = 0
    reason: str = ""
    headers: Headers = field(default_factory=list)
    framing: str = "none"
    chunks: list[bytes] = field(default_factory=list)
    clean_end: bool = False
    body: bytes = b""
    error: str = ""

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name.lower()), None)


def request_bytes(
    method: str, target: str, body: bytes = b"", headers: Headers | None = None
) -> bytes:
    given = list(headers or [])
    names = {name.lower() for name, _ in given}
    if "host" not in names:
        given.insert(0, ("Host", "127.0.0.1"))
    if "transfer-encoding" in names:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    elif body or method in {"POST", "DELETE"}:
        given.append(("Content-Length", str(len(body))))
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in given)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def fetch(port: int, request: bytes, seconds: float = 10) -> RawReply:
    """Send one request on a connection of its own and read the answer to its end."""
    method = request.partition(b" ")[0].decode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(read_reply(reader, method), seconds)
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def ask(
    port: int, method: str, target: str, body: bytes = b"", headers: Headers | None = None
) -> RawReply:
    close = [*(headers or []), ("Connection", "close")]
    return await fetch(port, request_bytes(method, target, body, close))


async def read_reply(reader: asyncio.StreamReader, method: str) -> RawReply:
    """Read one answer; a connection that breaks is noted in it, not raised."""
    reply = RawReply()
    try:
        await _read_head(reader, reply)
        await _read_body(reader, reply, method)
    except (asyncio.IncompleteReadError, OSError, ValueError) as error:
        reply.error = f"{type(error).__name__}: {error}"
        if isinstance(error, asyncio.IncompleteReadError):
            reply.body += error.partial
    return reply


async def _read_head(reader: asyncio.StreamReader, reply: RawReply) -> None:
    line = (await reader.readuntil(b"\r\n")).decode("latin-1").rstrip("\r\n")
    _, status, reply.reason = line.split(" ", 2)
    reply.status = int(status)
    while (line := (await reader.readuntil(b"\r\n")).decode("latin-1").rstrip("\r\n")) != "":
        name, _, value = line.partition(":")
        reply.headers.append((name, value.strip()))


async def _read_body(reader: asyncio.StreamReader, reply: RawReply, method: str) -> None:
    if method == "HEAD" or reply.status in {204, 304}:
        reply.clean_end = True
        return
    length = reply.header("content-length")
    if reply.header("transfer-encoding") == "chunked":
        reply.framing = "chunked"
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            chunk = await reader.readexactly(size)
            reply.chunks.append(chunk)
            reply.body += chunk
            await reader.readexactly(2)
        await reader.readexactly(2)
    elif length is not None:
        reply.framing = "length"
        reply.body += await reader.readexactly(int(length))
    else:
        reply.framing = "close"
        while piece := await reader.read(65536):
            reply.body += piece
    reply.clean_end = True
