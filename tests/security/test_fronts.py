"""S18: nginx or HAProxy in front counts as many requests as we do, whatever a client frames how.

Real proxies with their strictness turned down; where one is not installed its test is skipped by
name. Each keeps its connections to us open, so that what we left of one request would be the
beginning of somebody else's next.
"""

import asyncio
import contextlib
import re
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ollama_wrap.runtime import Runtime
from ollama_wrap.wire import inbound
from ollama_wrap.wire.guard import HEAD
from ollama_wrap.wire.head import Fault
from tests.fakes.cluster import Cluster, cluster, host, serving
from tests.fakes.heads import ACCEPTED, OTHERWISE, REFUSED, head
from tests.fakes.raw_http import fetch, read_reply, request_bytes
from tests.wire.test_framing import BROKEN

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
  log_format counted "$upstream_addr";
  access_log {folder}/access.log counted;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  client_header_timeout 1s; client_body_timeout 1s; lingering_timeout 1s; proxy_read_timeout 2s;
  ignore_invalid_headers off; underscores_in_headers on; merge_slashes off;
  large_client_header_buffers 8 128k; client_max_body_size 0;
  upstream us {{ server 127.0.0.1:{us}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://us; proxy_http_version 1.1; proxy_next_upstream off;
      proxy_set_header Connection ""; proxy_set_header Host $http_host;
      proxy_request_buffering off; proxy_buffering off;
    }}
  }}
}}
"""
HAPROXY = """
global
  log stdout format raw local0
  tune.bufsize 131072
defaults
  mode http
  log global
  log-format "%s"
  option accept-invalid-http-request
  option http-keep-alive
  http-reuse always
  timeout connect 1s
  timeout client 2s
  timeout server 2s
  timeout http-request 1s
  timeout http-keep-alive 1s
frontend front
  bind 127.0.0.1:{port}
  default_backend behind
backend behind
  server us 127.0.0.1:{us}
"""
#: what follows each payload on its connection: a request, if the payload has ended
NEXT = b"GET /next HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
INNER = b"GET /inner HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
CODED = b"Transfer-Encoding: chunked"
CHUNKS = b"3\r\nabc\r\n0\r\n\r\n"


def fields(*lines: bytes, body: bytes = b"", line: bytes = b"POST /x HTTP/1.1") -> bytes:
    return head(*lines, line=line) + body


#: codings and lengths in disguise, each before a body that another reader takes for a request
DISGUISES = {
    "tab": b"Transfer-Encoding:\tchunked",
    "blank-after": b"Transfer-Encoding: chunked ",
    "no-blank": b"Transfer-Encoding:chunked",
    "upper": b"TRANSFER-ENCODING: CHUNKED",
    "space-before-colon": b"Transfer-Encoding : chunked",
    "underscore": b"Transfer_Encoding: chunked",
    "folded": b"Transfer-Encoding:\r\n chunked",
    "line-feed": b"X: x\nTransfer-Encoding: chunked",
    "return": b"X: x\rTransfer-Encoding: chunked",
    "nul": b"Transfer-Encoding: chunked\x00",
    "form-feed": b"Transfer-Encoding: \x0cchunked",
    "comma": b"Transfer-Encoding: ,chunked",
    "twice": b"Transfer-Encoding: chunked, chunked",
    "parameter": b"Transfer-Encoding: chunked;a=b",
    "empty-first": b"Transfer-Encoding:\r\nTransfer-Encoding: chunked",
    "8-bit": b"Transfer-Encoding: \xffchunked",
    "named-hop": b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    "named-length": b"Connection: Content-Length",
}
ENDS = {
    "extension": b"3;a=b\r\nabc\r\n0\r\n\r\n",
    "extension-line-feed": b"3;a\nabc\r\n0\r\n\r\n",
    "zeros": b"0000000003\r\nabc\r\n000\r\n\r\n",
    "blank-in-size": b"3 \r\nabc\r\n0\r\n\r\n",
    "blank-before-size": b" 3\r\nabc\r\n0\r\n\r\n",
    "overflow": b"100000000000000003\r\nabc\r\n0\r\n\r\n",
    "return-only": b"3\rabc\r0\r\r",
    "no-last": b"3\r\nabc\r\n",
    "trailers": b"3\r\nabc\r\n0\r\nHost: b\r\nContent-Length: 9\r\n\r\n",
    "request-behind": CHUNKS + INNER,
}
PAYLOADS = REFUSED | ACCEPTED | {name: raw for name, (raw, _) in (BROKEN | OTHERWISE).items()}
PAYLOADS |= {f"plain-{name}": raw for name, raw in {"get": NEXT, "two": NEXT + INNER}.items()}
PAYLOADS |= {f"coding-{name}": fields(raw, body=CHUNKS) for name, raw in DISGUISES.items()}
PAYLOADS |= {
    f"both-{name}": fields(b"Content-Length: %d" % len(INNER), raw, body=b"0\r\n\r\n" + INNER)
    for name, raw in DISGUISES.items()
}
PAYLOADS |= {f"chunks-{name}": fields(CODED, body=raw) for name, raw in ENDS.items()}
PAYLOADS |= {
    f"{method}-with-a-request": fields(
        b"Content-Length: %d" % len(INNER), body=INNER, line=b"%b /x HTTP/1.1" % method.encode()
    )
    for method in ("GET", "HEAD", "DELETE", "OPTIONS", "PUT")
}


class Counting(inbound.Inbound):
    """Counts the requests that we saw: their heads, sound or not."""

    seen = 0

    def _open(self, rest: bytes) -> bytes:
        Counting.seen += 1
        return super()._open(rest)

    def refuse(self, fault: Fault) -> None:
        if self.stage == HEAD:
            Counting.seen += 1
        super().refuse(fault)


@contextlib.asynccontextmanager
async def counted(runtime: Runtime, sock: socket.socket) -> AsyncIterator[Any]:
    made = type("Counted", (Counting, inbound.protocol(runtime.edge.take, runtime.guard)), {})
    async with serving(runtime, sock, made) as server:
        yield server


class Front:
    """A running proxy; `passed` says how many requests it has passed on."""

    def __init__(self, port: int, log: Path, word: str) -> None:
        self.port = port
        self._log = log
        self._word = word

    @property
    def passed(self) -> int:
        return sum(self._word in line for line in self._log.read_text("latin-1").splitlines())


@contextlib.asynccontextmanager
async def front(name: str, us: int, folder: Path, template: str = "") -> AsyncIterator[Front]:
    """`template`: another configuration than the one above."""
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config, log = folder / "config", folder / "access.log"
    template = template or (NGINX if name == "nginx" else HAPROXY)
    config.write_text(template.format(folder=folder, us=us, port=port))
    log.touch()
    command = ("-p", str(folder), "-c") if name == "nginx" else ("-db", "-f")
    # HAProxy has no file of its own for a log.
    with (folder / "out" if name == "nginx" else log).open("wb") as out:
        process = await asyncio.create_subprocess_exec(program, *command, str(config), stdout=out)
    try:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield Front(port, log, f"127.0.0.1:{us}" if name == "nginx" else "us")
    finally:
        process.terminate()
        await process.wait()


async def sent(port: int, payload: bytes) -> bytes:
    """What is answered to a payload and the request behind it, until nothing comes any more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = b""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        writer.write(payload + NEXT)
        while piece := await asyncio.wait_for(reader.read(65_536), 0.25):
            got += piece
    writer.close()
    return got


async def counts(one: Cluster, before: Front) -> tuple[int, int]:
    """Requests by the front and by us, when neither changes any more."""
    last = (-1, -1)
    for _ in range(40):
        now = (before.passed, Counting.seen)
        if now == last and now[0] == now[1] and not one.runtime.pipeline.running:
            break
        last = now
        await asyncio.sleep(0.05)
    return last


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
async def test_front_and_we_agree_how_many_requests_there_are(name: str, tmp_path: Path) -> None:
    """S18."""
    found: dict[str, tuple[int, int]] = {}
    last = (0, 0)
    async with cluster(serve=counted, check=False, trusted_proxies=("127.0.0.1",)) as one:
        Counting.seen = 0
        async with front(name, one.port, tmp_path) as before:
            for payload, raw in PAYLOADS.items():
                await sent(before.port, raw.replace(b"Host: a\r\n", b"Host: 127.0.0.1\r\n"))
                now = await counts(one, before)
                found[payload], last = (now[0] - last[0], now[1] - last[1]), now
            answered = await sent(before.port, b"")
        assert b" 200 " in answered or b" 404 " in answered
        assert one.lines("a request failed in our own code") == []

    passed = sum(theirs > 0 for theirs, _ in found.values())
    print(f"{name}: {len(found)} payloads, {passed} let through")
    assert {payload: seen for payload, seen in found.items() if seen[0] != seen[1]} == {}
    assert found["plain-two"] == (3, 3)
    # A front that lets nothing through would agree with anybody.
    assert passed >= 20


def advised(page: str) -> str:
    """The proxy that docs/hardening.md advises, on loopback and without its certificate."""
    server = page.partition("```nginx\n")[2].partition("```")[0]
    server = re.sub(r" *ssl_certificate.*\n", "", server).replace("{", "{{").replace("}", "}}")
    server = server.replace("listen 443 ssl", "listen 127.0.0.1:{port}")
    server = server.replace("127.0.0.1:11434", "127.0.0.1:{us}")
    return re.sub(r"  server \{\{\n.*\n  \}\}\n", lambda _: server, NGINX, flags=re.DOTALL)


async def test_proxy_that_the_docs_advise_passes_streams_and_addresses(tmp_path: Path) -> None:
    """S24: whoever comes through it is no caller on loopback."""
    page = (ROOT / "docs/hardening.md").read_text("utf-8")
    hosts = {"local": host("tiny", token_delay=0.1)}
    settings = {"trusted_proxies": ("127.0.0.1",), "protect": "management"}
    async with (
        cluster(hosts, **settings) as one,  # type: ignore[arg-type]
        front("nginx", one.port, tmp_path, advised(page)) as before,
    ):
        body = b'{"model":"tiny","messages":[{"role":"user","content":"hi"}]}'
        reader, writer = await asyncio.open_connection("127.0.0.1", before.port)
        fields = [("Host", "ollama.example")]
        writer.write(request_bytes("POST", "/api/chat", body, fields))
        chat = await read_reply(reader, "POST")
        pull = await fetch(before.port, request_bytes("POST", "/api/pull", body, fields))
        admin = await fetch(before.port, request_bytes("GET", "/admin/stats", b"", fields))
        writer.close()

        assert (chat.status, chat.clean_end) == (200, True)
        assert len(chat.chunks) >= 4  # not gathered on the way
        assert (pull.status, admin.status) == (403, 404)
