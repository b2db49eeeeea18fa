"""What a body or a name says, to us and to the Ollama behind; S numbers: docs/threat-model.md."""

import json
import time

import pytest
import zstandard

from tests.fakes.cluster import Cluster, cluster
from tests.fakes.raw_http import Headers, RawReply
from tests.flow.rows import ALONE
from tests.wire.stage import Node, Peer, post, sidecar, sized, talk

TOKEN = "correct-horse-battery-staple-0123"
BEARER = ("Authorization", f"Bearer {TOKEN}")
SAYS = b'"messages":[{"role":"user","content":"hi"}],"stream":false'
#: seconds that no request may take: the figure is 0.05, on a machine that does nothing else
SOON = 1.0


async def quick(one: Cluster, target: str, body: bytes, headers: Headers | None = None) -> RawReply:
    began = time.monotonic()
    reply = await one.ask("POST", target, body, headers)
    assert time.monotonic() - began < SOON
    return reply


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "said",
    [
        b'"model":"other","Model":"big"',
        b'"model":"other","model":"big"',
        b'"MODEL":"big"',
        b'"model":"big","model":null',
    ],
)
async def test_model_is_the_one_that_go_reads(said: bytes) -> None:
    """S32: the node gets the bytes as they came."""
    async with cluster(ALONE) as one:
        body = b"{%b,%b}" % (said, SAYS)

        reply = await one.ask("POST", "/api/chat", body)

        assert (reply.status, one.asked("/api/chat")) == (200, {"r1": 1})
        assert one["r1"].ledger.to("/api/chat")[0].body == body


async def test_stream_is_what_go_reads() -> None:
    """S32."""
    async with cluster(ALONE) as one:
        body = '{"model":"big","messages":[{"role":"user","content":"hi"}],"\u017ftream":false}'

        reply = await one.ask("POST", "/api/chat", body.encode())

        assert (reply.status, json.loads(reply.body)["done"]) == (200, True)
        assert one["r1"].ledger.to("/api/chat")[0].body == body.encode()


async def test_keep_alive_is_what_go_reads() -> None:
    """S32: unloading, and not loading."""
    async with cluster(ALONE) as one:
        await one.chat("big")
        await one.until(lambda: bool(one.upstream("r1").inventory.loaded))

        reply = await one.ask("POST", "/api/generate", b'{"model":"big","KEEP_ALIVE":0}')

        assert json.loads(reply.body)["done_reason"] == "unload"
        assert one["r1"].ledger.counts.unloads == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"tiny","Model":"evil.example/x/y"}',
        b'{"model":"evil.example/x/y","model":"tiny"}',
        b'{"model":"tiny","in\xc5\xbfecure":true}',
    ],
)
async def test_right_hangs_on_every_reading(body: bytes) -> None:
    """S32: what we and another reader could take differently is refused."""
    async with cluster(protect="management") as one:
        reply = await one.ask("POST", "/api/pull", body)

        assert (reply.status, one.asked("/api/pull")) == (403, {})


# ---------------------------------------------------------------- JSON

ODD = {
    "depth": b'{"mode":' + b"[" * 60_000,
    "digits": b'{"mode":' + b"9" * 5000 + b"}",
    "nan": b'{"mode":NaN}',
    "surrogate": b'{"mode":"\\ud800"}',
    "mark": b'\xef\xbb\xbf{"mode":"local"}',
    "utf-8": b'{"mode":"\xff\xfe"}',
    "trailing": b'{"mode":"local"} more',
    "repeated": b'{"mode":"local","mode":"standalone","x":1}',
    "cut": b'{"mode":',
}


async def test_odd_body_is_a_400_on_our_own_routes() -> None:
    """S35."""
    async with cluster(ALONE, admin_token=TOKEN) as one:
        for name, body in ODD.items():
            reply = await quick(one, "/admin/mode", body, [BEARER])

            assert (reply.status, b"Traceback" in reply.body) == (400, False), name
        assert one.runtime.fleets.current.mode == "distributed"
        assert one.lines("a route of ours failed") == []


@pytest.mark.parametrize("target", ["/api/chat", "/v1/chat/completions"])
async def test_odd_body_is_passed_on_stock_s_routes(target: str) -> None:
    """S35."""
    async with cluster(ALONE) as one:
        for name, odd in ODD.items():
            body = odd.replace(b'"mode"', b'"model"').replace(b'"local"', b'"other"')
            reply = await quick(one, target, body)

            seen = one.local.ledger.to(target)[-1]
            assert (seen.body == body, reply.status) == (True, seen.status), name
        assert {line["level"] for line in one.lines()} == {"info"}


LONG = {
    "name": {"model": "model '" * 8000},
    "name-end": {"model": "' not found " * 5000},
    "digits": {"model": "tiny", "keep_alive": "1" * 60_000 + "x"},
    "digits-of-a-second": {"model": "tiny", "keep_alive": "9" * 5000 + "s"},
    "many-times": {"model": "tiny", "keep_alive": "0s" * 100_000},
    "dots": {"model": "tiny", "keep_alive": "0." + "0" * 60_000 + "s"},
    "slashes": {"model": "a/" * 30_000},
    "colons": {"model": ":" * 60_000},
    "cloud": {"model": "-cloud" * 10_000},
    "escapes": {"model": "\u2028\U0001f600" * 10_000},
    "prompt": {"model": "tiny", "prompt": '{[\\"' * 30_000},
}


@pytest.mark.parametrize("target", ["/api/generate", "/api/chat", "/v1/chat/completions"])
async def test_no_value_holds_up_everybody_else(target: str) -> None:
    """S35: nor does the answer that repeats it."""
    async with cluster(ALONE) as one:
        for name, fields in LONG.items():
            reply = await quick(one, target, json.dumps(fields).encode())

            assert reply.status < 500, name
        assert (await one.chat("big")).status == 200


# ---------------------------------------------------------------- codings and forms


def bomb() -> bytes:
    """Some 10 KiB that become 256 MiB."""
    packer = zstandard.ZstdCompressor(level=3).compressobj()
    zeros = bytes(1 << 24)
    return b"".join([*(packer.compress(zeros) for _ in range(16)), packer.flush()])


@pytest.mark.parametrize(
    "coding, body",
    [("zstd", bomb()), ("zstd", b"\x28\xb5\x2f\xfd cut"),
     ("zstd", zstandard.compress(b"") * 500_000), ("gzip", b"\x1f\x8b" * 5000),
     ("br", b"\xff" * 5000), ("unheard-of", b"{}")],
    ids=["zstd-bomb", "zstd-broken", "zstd-frames", "gzip", "br", "unknown"],
)  # fmt: skip
@pytest.mark.parametrize("target", ["/v1/chat/completions", "/api/chat"])
async def test_coded_body_that_we_do_not_read_is_passed(
    target: str, coding: str, body: bytes
) -> None:
    """S36."""
    async with cluster(ALONE) as one:
        one.local.on(route=target, status=418, body="{}")

        reply = await quick(one, target, body, [("Content-Encoding", coding)])

        (seen,) = one.local.ledger.to(target)
        assert reply.status == 418
        assert (seen.body_size, seen.header("content-encoding")) == (len(body), coding)


PART = b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n1\r\n"
FORMS = {
    "parts": PART * 100_000 + b"--b--\r\n",
    "long-head": b"--b\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n1\r\n--b--\r\n",
    "no-end": PART * 10,
    "no-beginning": b"x" * 100_000,
    "nothing-but-ends": b"\r\n--b" * 50_000,
}


@pytest.mark.parametrize("body", FORMS.values(), ids=FORMS)
async def test_form_that_we_do_not_read_is_passed(body: bytes) -> None:
    """S37."""
    received = bytearray()

    async def script(peer: Peer) -> None:
        await peer.head()
        while len(received) < len(body):
            received.extend(await peer.read())
        await peer.send(sized(b"hi"))

    kind = b"Content-Type: multipart/form-data; boundary=b"
    raw = post("/v1/audio/transcriptions", body, kind, b"Connection: close")
    async with Node(script) as node, sidecar(node.port) as one:
        began = time.monotonic()
        got = await talk(one.port, raw)

        assert got.startswith(b"HTTP/1.1 200 OK\r\n")
        assert time.monotonic() - began < SOON
    assert received == body


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fadmin", "a" * 4096, "%00%0d%0a%1b[31m", "%ff%fe", "x%2fy%2fz%3aw", "<img>"],
    ids=["up", "4-KiB", "control", "utf-8", "slashes", "html"],
)
async def test_odd_name_is_passed_and_is_no_label(name: str) -> None:
    """S39."""
    async with cluster(ALONE) as one:
        target = f"/v1/models/{name}"

        reply = await one.get(target)

        (seen,) = [each for each in one.local.ledger.entries if each.target == target]
        assert reply.status == seen.status
        line = await one.ended()
        assert len(line["path"]) <= 400
        labels = {
            str(row["labels"]["model"])  # type: ignore[index]
            for row in one.runtime.metrics.as_dict()["ollama_wrap_requests_total"]
        }
        assert labels <= {"", "other"}
