"""What is never written down, and that a line stays a line; S numbers: docs/threat-model.md."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ollama_wrap.call import Call
from ollama_wrap.config import Settings
from ollama_wrap.observe import lines, log
from ollama_wrap.routing.policies.base import Candidate
from tests.fakes.cluster import Cluster, cluster, host
from tests.fakes.raw_http import Headers, request_bytes

#: one word for each thing that is nobody else's business
PROMPT, ANSWER, IMAGE = "canary-prompt-1f3a", "canary-answer-77c2", "Y2FuYXJ5LWltYWdl"
KEY, TOKEN, JWT = "canary-key-90be", "canary-admin-token-5d11", "canary.jwt.e4a0"
JWT_SECRET, CLUSTER_SECRET = "canary-jwt-secret-2b6f", "canary-cluster-secret-8c3d"
NODE_KEY, STORE_KEY = "canary-node-key-6e09", "canary-store-key-3f7a"
COOKIE, QUERY, URL_KEY = "canary-cookie-b1d4", "canary-query-44aa", "canary-url-key-0d52"
SECRETS = (
    *(PROMPT, ANSWER, IMAGE, KEY, TOKEN, JWT, JWT_SECRET, CLUSTER_SECRET),
    *(NODE_KEY, STORE_KEY, COOKIE, QUERY, URL_KEY),
)
CREDENTIALS: Headers = [
    ("Authorization", f"Bearer {KEY}"),
    ("X-API-Key", KEY),
    ("Cookie", f"session={COOKIE}"),
    ("X-Custom", JWT),
]
SAYS = [{"role": "user", "content": PROMPT, "images": [IMAGE]}]
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": {"messages": SAYS},
    "/api/generate": {"prompt": PROMPT, "images": [IMAGE], "system": PROMPT},
    "/api/embed": {"input": [PROMPT]},
    "/api/embeddings": {"prompt": PROMPT},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": PROMPT}]},
    "/v1/completions": {"prompt": PROMPT},
    "/v1/embeddings": {"input": PROMPT},
    "/v1/responses": {"input": PROMPT},
    "/v1/messages": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 9},
    "/api/show": {"system": PROMPT},
    "/api/create": {"from": "tiny", "system": PROMPT},
    "/api/pull": {"username": KEY, "password": KEY},
    "/nowhere": {"prompt": PROMPT},
}
#: what goes wrong, by what the node is told to do
FAULTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "error": {"status": 500, "body": json.dumps({"error": f"cannot {PROMPT}"})},
    "memory": {"status": 500, "body": json.dumps({"error": f"out of memory: {PROMPT}"})},
    "refused": {"status": 400, "body": f"bad {PROMPT}"},
    "garbage": {"raw": f"{ANSWER}\r\n{PROMPT}\r\n\r\n"},
    "header": {"raw": f"HTTP/1.1 200 OK\r\nX-A {ANSWER}\r\n\r\n"},
    "cut": {"cut_body_after": 40},
    "broken": {"break_chunk": 1},
}


class Echoing:
    """A policy whose error repeats what the client sent, as anybody's may."""

    name = "echoing"

    def __init__(self, dice: Random) -> None:
        del dice

    def rank(self, call: Call, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        raise ValueError(call.body, dict(call.headers))


def written(one: Cluster, folder: Path) -> dict[str, str]:
    """All that outlives a request: the log, the numbers, the state folder."""
    log.flush()
    found = {"log": one.written.getvalue(), "metrics": one.runtime.metrics.render().decode()}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.name] = path.read_bytes().decode("latin-1")
    return found


def leaks(texts: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (where, secret) for where, text in texts.items() for secret in SECRETS if secret in text
    ]


def settings(folder: Path) -> dict[str, Any]:
    return {
        "admin_token": TOKEN,
        "jwt_secret": JWT_SECRET,
        "cluster_secret": CLUSTER_SECRET,
        "state": {"store": "sqlite", "dir": folder},
        "level": "debug",
    }


@pytest.mark.parametrize("fault", FAULTS)
async def test_requests_leave_nothing_of_what_they_say(fault: str, tmp_path: Path) -> None:
    """S74: on every route, whatever becomes of it, at the loudest level."""
    entry = f"header=Authorization:{NODE_KEY}"
    hosts = {"local": host("tiny", say=ANSWER), "r1": host("big", entry=entry, say=ANSWER)}
    async with cluster(hosts, **settings(tmp_path)) as one:
        one.several = True
        if FAULTS[fault]:
            for fake in (one.local, one["r1"]):
                for path in BODIES:
                    fake.on(route=path, times=0, **FAULTS[fault])
        for path, fields in BODIES.items():
            for model in ("tiny", "big", "nobody-has-it"):
                for stream in (False, True):
                    body = json.dumps({"model": model, "stream": stream, **fields}).encode()
                    target = f"{path}?key={QUERY}"
                    await one.ask("POST", target, body, CREDENTIALS)
        await one.ended(len(BODIES) * 6)

        assert one["r1"].ledger.to("/api/chat")[0].header("authorization") == NODE_KEY
        assert leaks(written(one, tmp_path)) == []


async def test_what_we_show_has_no_secret(tmp_path: Path) -> None:
    """S74: our own routes, and what the command prints of the settings."""
    entry = f"header=Authorization:{NODE_KEY}"
    hosts = {"local": host("tiny", say=ANSWER), "r1": host("big", entry=entry, say=ANSWER)}
    async with cluster(hosts, **settings(tmp_path)) as one:
        bearer = [("Authorization", f"Bearer {TOKEN}")]
        for path in ("/api/chat", "/v1/chat/completions"):
            body = json.dumps({"model": "big", **BODIES[path]}).encode()
            await one.ask("POST", path, body, CREDENTIALS)
        shown = {}
        for target in (
            *("/api/distributed/status", "/api/distributed/nodes", "/api/distributed/models"),
            *("/api/distributed/requests", "/api/distributed/metrics", "/metrics", "/health"),
            *("/admin/stats", "/api/distributed/ping"),
        ):
            reply = await one.get(target, bearer)
            assert reply.status == 200
            shown[target] = str(reply.headers) + reply.body.decode()
        for bad in (PROMPT, json.dumps({"mode": [PROMPT]}), json.dumps({KEY: 1})):
            reply = await one.ask("POST", "/admin/mode", bad.encode(), bearer)
            assert reply.status == 400
            shown[bad] = reply.body.decode()
        wrong = await one.post("/admin/mode", [("Authorization", f"Bearer {KEY}")], mode="local")
        shown["wrong token"] = str(wrong.headers) + wrong.body.decode()

        assert leaks(shown | written(one, tmp_path)) == []


async def test_error_of_somebody_else_s_part_is_not_repeated(tmp_path: Path) -> None:
    """S74: a policy from outside that fails with the request in its error."""
    strategy = {"strategy": f"{__name__}:Echoing", "mode": "balanced"}
    hosts = {"local": host("tiny"), "r1": host("tiny", entry=f"header=Authorization:{NODE_KEY}")}
    async with cluster(hosts, routing=strategy, **settings(tmp_path)) as one:
        shown = {}
        for path in ("/api/chat", "/v1/chat/completions"):
            body = json.dumps({"model": "tiny", **BODIES[path]}).encode()
            reply = await one.ask("POST", path, body, CREDENTIALS)
            shown[path] = str(reply.headers) + reply.body.decode()
        await one.ended(2)

        assert leaks(shown | written(one, tmp_path)) == []
        assert "ValueError" in one.written.getvalue()


@pytest.mark.parametrize(
    "name, value",
    [
        ("OLLAMA_ADMIN_TOKEN", TOKEN),
        ("OLLAMA_JWT_SECRET", JWT_SECRET),
        ("OLLAMA_WRAP_CLUSTER_SECRET", CLUSTER_SECRET),
        ("OLLAMA_WRAP_NODES", f"r1=http://h:1;header=Authorization:{NODE_KEY}"),
        ("OLLAMA_WRAP_NODES", f"r1=http://user:{URL_KEY}@h:1"),
        ("OLLAMA_WRAP_STORE", f"redis://:{STORE_KEY}@h:1"),
    ],
)
def test_settings_that_are_secret_are_not_repeated(name: str, value: str) -> None:
    """S74: neither as they are, nor in what is wrong with them."""
    loaded = Settings.load(environ={name: value})

    said = " ".join((*loaded.warnings, *loaded.faults, repr(loaded.admin_token)))
    assert leaks({"said": said}) == []


async def test_store_that_cannot_be_used_is_named_without_its_password() -> None:
    """S74."""
    state = {"store": f"redis://:{STORE_KEY}@127.0.0.1:1"}
    async with cluster(state=state, level="debug") as one:
        status = await one.get("/api/distributed/status")

        shown = {"log": one.written.getvalue(), "status": status.body.decode()}
        assert leaks(shown | {"problems": " ".join(one.runtime.problems)}) == []


# ---------------------------------------------------------------- lines

EVIL = "a\nlevel=error event=forged\r\x1b[31m\x00\x85\u2028\u202e\"'\\ b"


@pytest.mark.parametrize("form", lines.FORMATS)
async def test_line_of_the_log_stays_one_line(form: str) -> None:
    """S73: whatever stands in a path, a model, a header or an answer."""
    async with cluster({"r1": host("tiny")}, level="debug") as one:
        log._output.format = lines.FORMATS[form]
        before = one.written.getvalue().count("\n")
        odd = EVIL.encode().hex("%")
        body = json.dumps({"model": EVIL, "messages": []}).encode()
        raw = request_bytes("POST", "/api/chat", body, [("Connection", "close")])
        raw = raw.replace(b"\r\n\r\n", b"\r\nX-Request-ID: \x85\xe2\x80\xa8\xff\r\n\r\n", 1)
        targets = [f"/%{odd}", f"/v1/models/%{odd}", "/\x85\u2028".encode().decode("latin-1")]

        for target in targets:
            await one.get(target)
        async with one.open(raw) as talk:
            await talk.reply()
        one.local.on(route="/x", raw=f"HTTP/1.1 200 {EVIL[:34]}\r\n\r\n")
        await one.get("/x")
        await one.until(lambda: _requests(one) >= len(targets) + 2)

        made = one.written.getvalue().split("\n")[before:]
        assert all(re.fullmatch(r"[\x20-\x7e]*", line) for line in made)
        assert max(map(len, made)) <= 2048
        assert not any(line.startswith("level=error") for line in made)


def _requests(one: Cluster) -> int:
    log.flush()
    return len(re.findall(r"status\"?[=:]", one.written.getvalue()))


@pytest.mark.parametrize("raw", [b"/a\nb", b"/a\x1b[31m", b"/a\x00b", b"/a\x7fb"])
async def test_control_character_never_gets_as_far_as_the_log(raw: bytes) -> None:
    """S73."""
    async with cluster() as one:
        async with one.open(b"GET " + raw + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as talk:
            reply = await talk.rest()

        assert reply.startswith(b"HTTP/1.1 400 ")
        assert one.lines() == []
