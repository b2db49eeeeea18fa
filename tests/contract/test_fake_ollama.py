"""The fake Ollama answers as the recorded real one did, volatile values aside."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ollama_wrap.testing import FakeOllama
from tests.fakes.raw_http import RawReply, ask

RECORDINGS = Path(__file__).parents[1] / "data" / "recordings"
Entry = dict[str, Any]

_VOLATILE = (
    (r'"(created_at|modified_at|expires_at)":"[^"]*"', r'"\1":"T"'),
    (r'"(created|created_at|completed_at)":\d+', r'"\1":0'),
    (r'"(total_duration|load_duration|eval_duration|prompt_eval_duration)":\d+', r'"\1":0'),
    (r"(chatcmpl|cmpl)-\d+", r"\1-0"),
    (r"(resp|msg|req)_[0-9a-f]+", r"\1_0"),
    (r'"digest":"[0-9a-f]{64}"', '"digest":"D"'),
    (r"blobs/sha256-[0-9a-f]{64}", "blobs/sha256-D"),
    (r"(using existing layer) sha256:[0-9a-f]{64}", r"\1 sha256:D"),
)

# Another model, another engine: its numbers and its words are not the fake's.
_OTHER_MODEL = (
    (r'"size":\d+', '"size":0'),
    (r'"parameter_size":"\w+"', '"parameter_size":""'),
    (r'"context":\[[\d,]*\]?', '"context":[]'),
    (r'"(\w+_tokens|prompt_eval_count|eval_count)":\d+', r'"\1":0'),
    (r'"(embeddings|embedding)":\[.*', r'"\1":'),
)
_OTHER_MODEL_NAMES = {
    "ps": "nothing was loaded there yet",
    "show": "another architecture: its answer is short enough for a Content-Length",
    "show-name": "the same",
    "generate-chunked-body": "another tokenizer, so all of what is kept is other numbers",
    "embed": "4,096 numbers where the fake has four",
    "embeddings-legacy": "the same",
    "v1-embeddings": "the same",
}


def recorded(file: str) -> list[Entry]:
    entries: list[Entry] = json.loads((RECORDINGS / file).read_text())
    return entries


def steady(text: str, rules: tuple[tuple[str, str], ...] = _VOLATILE) -> str:
    for pattern, to in rules:
        text = re.sub(pattern, to, text)
    return text


def chunks_of(reply: Entry) -> list[str]:
    """The recorded body cut into its chunks; the last one kept may lack its end."""
    body, chunks, at = reply["body"], [], 0
    if len(reply["chunks"]) == 1:
        return [body]
    for size in reply["chunks"]:
        chunks.append(body[at : at + size])
        at += size
    return [chunk for chunk in chunks if chunk]


def request_of(entry: Entry) -> tuple[str, str, bytes, list[tuple[str, str]]]:
    request = entry["request"]
    headers = [(name, value) for name, value in request.get("headers", [])]
    body = request["body"]
    if entry["name"] == "generate-chunked-body":
        # Only the first 4,000 characters were kept; the answer's context tells the rest.
        body = json.dumps({"model": "tiny", "prompt": "hi " * 9000, "stream": False})
        headers.append(("Transfer-Encoding", "chunked"))
    return request["method"], request["target"], body.encode("latin-1"), headers


def head_of(reply: RawReply, expected: Entry) -> tuple[list[list[str]], list[list[str]]]:
    """Both heads with the date masked, and the length where the body has volatile numbers."""
    heads = [[list(h) for h in reply.headers], [list(h) for h in expected["headers"]]]
    volatile = any(re.search(pattern, expected["body"]) for pattern, _ in _VOLATILE)
    for header in heads[0] + heads[1]:
        if header[0] == "Date" or (header[0] == "Content-Length" and volatile):
            header[1] = "*"
    return heads[0], heads[1]


def assert_same(
    reply: RawReply, expected: Entry, rules: tuple[tuple[str, str], ...] = _VOLATILE
) -> None:
    got_head, expected_head = head_of(reply, expected)
    assert got_head == expected_head
    assert (reply.framing, reply.clean_end) == (expected["framing"], expected["clean_end"])
    body = steady(reply.body.decode(), rules)
    whole = steady(expected["body"].encode("latin-1").decode("utf-8", "replace"), rules)
    if len(expected["body"]) == 8000:
        body = body[: len(whole)]
    assert body == whole
    got = [steady(chunk.decode(), rules) for chunk in reply.chunks]
    wanted = [steady(chunk, rules) for chunk in chunks_of(expected)]
    assert len(got) == len(wanted)
    assert len(expected["body"]) == 8000 or got == wanted


async def clean_up(fake: FakeOllama, entry: Entry) -> None:
    """What was made is gone from the lists that were recorded later."""
    if entry["name"] == "create-from":
        await ask(fake.port, "DELETE", "/api/delete", b'{"model":"tiny-made"}')


async def test_fake_says_what_stock_said() -> None:
    async with FakeOllama(models=["tiny"]) as fake:
        await ask(fake.port, "POST", "/api/generate", b'{"model":"tiny"}')

        for entry in recorded("v0.33.0.json"):
            reply = await ask(fake.port, *request_of(entry))

            expected = entry["reply"]
            assert (entry["name"], reply.status, reply.reason) == (
                entry["name"],
                expected["status"],
                expected["reason"],
            )
            assert_same(reply, expected)
            await clean_up(fake, entry)


async def test_old_fake_says_what_old_stock_said() -> None:
    sentence = "The sky is blue because of Rayleigh scattering in the air above us"
    rules = _VOLATILE + _OTHER_MODEL
    async with FakeOllama(models=["tiny"], version="0.0.0", say=sentence) as fake:
        for entry in recorded("v0.24.0.json"):
            reply = await ask(fake.port, *request_of(entry))

            expected = entry["reply"]
            assert (entry["name"], reply.status) == (entry["name"], expected["status"])
            if entry["name"] in _OTHER_MODEL_NAMES:
                continue
            if '"size"' in expected["body"] or '"usage"' in expected["body"]:
                # The numbers of the other model may have more digits.
                expected = {**expected, "headers": _unsized(expected["headers"])}
                reply.headers = [(n, v) for n, v in _unsized(reply.headers)]
            assert_same(reply, expected, rules)
            await clean_up(fake, entry)


def _unsized(headers: list[Any]) -> list[tuple[str, str]]:
    return [(name, "*" if name == "Content-Length" else value) for name, value in headers]


_FAILURES = {
    "engine dies mid-stream": "engine-dies",
    "engine error mid-stream": "engine-dies",
    "engine dies before the first token": "engine-dies-first",
    "out of memory at load": "out-of-memory",
    "crash at load": "bad-magic",
    "prompt too long": "prompt-too-long",
    "load queue full": "busy",
    "slow load": "",
    "slow prompt": "",
}


@pytest.mark.parametrize(
    "entry", [pytest.param(e, id=e["name"]) for e in recorded("failures-v0.33.0.json")]
)
async def test_fake_fails_as_stock_failed(entry: Entry) -> None:
    failure = next(name for start, name in _FAILURES.items() if entry["name"].startswith(start))
    slow = entry["name"].startswith("slow")
    async with FakeOllama(models=["tiny"], say="t0 t1 t2" if slow else "t0 t1 t2 t3 t4") as fake:
        fake.on(failure=failure, after_tokens=3, prompt_delay=0.05 if slow else 0)

        reply = await ask(fake.port, *request_of(entry))

        assert reply.status == entry["reply"]["status"]
        assert_same(reply, entry["reply"])


async def test_every_named_failure_is_one_that_stock_can_have() -> None:
    texts = {json.loads(e["reply"]["body"])["error"] for e in _plain_failures()}

    async with FakeOllama() as fake:
        said = set()
        for failure in ("out-of-memory", "bad-magic", "prompt-too-long", "busy"):
            fake.on(failure=failure)
            reply = await ask(fake.port, "POST", "/api/generate", b'{"model":"tiny","prompt":"a"}')
            said.add(json.loads(reply.body)["error"])

    assert said <= texts


def _plain_failures() -> list[Entry]:
    entries = recorded("failures-v0.33.0.json")
    native = [e for e in entries if e["request"]["target"] == "/api/generate"]
    return [e for e in native if e["reply"]["status"] >= 400]
