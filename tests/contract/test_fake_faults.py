"""The fake Ollama does what its script says, and the ledger tells the truth about it."""

import asyncio
import io
import json
import os
import sys
from typing import Any

import pytest

from ollama_wrap.testing import End, FakeOllama
from tests.fakes.raw_http import RawReply, ask, read_reply, request_bytes

GENERATE = b'{"model":"tiny","prompt":"hi"}'
WHOLE = b'{"model":"tiny","prompt":"hi","stream":false}'


async def generate(fake: FakeOllama, body: bytes = GENERATE) -> RawReply:
    return await ask(fake.port, "POST", "/api/generate", body)


async def opened(fake: FakeOllama, request: bytes) -> asyncio.StreamWriter:
    _, writer = await asyncio.open_connection("127.0.0.1", fake.port)
    writer.write(request)
    return writer


def lines(reply: RawReply) -> list[dict[str, Any]]:
    return [json.loads(line) for line in reply.body.splitlines()]


@pytest.mark.parametrize("how, error", [("rst", "ConnectionResetError"), ("fin", "Incomplete")])
@pytest.mark.parametrize("at", [0, 1, 40])
async def test_a_cut_comes_after_exactly_so_many_bytes(how: str, error: str, at: int) -> None:
    async with FakeOllama() as fake:
        fake.on(cut_after=at, cut_how=how)

        reply = await generate(fake)

        entry = fake.ledger.to("/api/generate")[0]
        assert (entry.sent, entry.end) == (at, End.CUT)
        assert error in reply.error


@pytest.mark.parametrize("beyond, body", [(0, b""), (10, b'{"model')])
async def test_a_cut_can_be_counted_from_the_end_of_the_head(beyond: int, body: bytes) -> None:
    async with FakeOllama() as fake:
        fake.on(cut_body_after=beyond, cut_how="fin")

        reply = await generate(fake, WHOLE)

        assert (reply.status, reply.clean_end) == (200, False)
        assert reply.body[:7] == body


async def test_a_cut_before_the_end_of_the_head_leaves_no_head() -> None:
    async with FakeOllama() as fake:
        fake.on(cut_body_after=-1, cut_how="fin")

        reply = await generate(fake, WHOLE)

        assert reply.error.startswith("IncompleteReadError")
        assert not reply.clean_end


@pytest.mark.parametrize("off", [1, -1])
async def test_an_announced_length_can_be_wrong(off: int) -> None:
    async with FakeOllama() as fake:
        right = await generate(fake, b'{"model":"tiny"}')
        fake.on(length_off=off)

        reply = await generate(fake, b'{"model":"tiny"}')

        assert int(reply.header("content-length") or 0) == len(right.body) + off
        assert reply.clean_end == (off < 0)


async def test_chunks_can_be_broken_or_left_without_an_end() -> None:
    async with FakeOllama() as fake:
        fake.on(break_chunk=2)
        fake.on(drop_last_chunk=True)

        broken, endless = await generate(fake), await generate(fake)

        assert (len(broken.chunks), "ValueError" in broken.error) == (2, True)
        assert (lines(endless)[-1]["done"], endless.clean_end) == (True, False)


async def test_an_answer_can_come_twice() -> None:
    async with FakeOllama() as fake:
        fake.on(twice=True)
        reader, writer = await asyncio.open_connection("127.0.0.1", fake.port)
        writer.write(request_bytes("GET", "/api/version"))

        replies = [await read_reply(reader, "GET") for _ in range(2)]

        assert replies[0].body == replies[1].body == b'{"version":"0.33.0"}'
        writer.close()


async def test_informational_answers_come_first() -> None:
    async with FakeOllama() as fake:
        fake.on(informational=3)
        reader, writer = await asyncio.open_connection("127.0.0.1", fake.port)
        writer.write(request_bytes("GET", "/api/version"))

        for _ in range(3):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 103 ")
        assert (await read_reply(reader, "GET")).status == 200
        writer.close()


@pytest.mark.parametrize(
    "raw, starts",
    [
        ("garbage", b"\x16\x03\x01"),
        ("switch", b"HTTP/1.1 101 "),
        ("x\ry", b"x\ry"),
        ("nothing", b""),
    ],
)
async def test_anything_can_come_instead_of_http(raw: str, starts: bytes) -> None:
    async with FakeOllama() as fake:
        fake.on(raw=raw)
        reader, writer = await asyncio.open_connection("127.0.0.1", fake.port)
        writer.write(request_bytes("GET", "/"))

        got = await reader.read()

        assert got.startswith(starts)
        assert bool(got) == bool(starts)
        writer.close()


async def test_a_status_and_headers_can_be_given_even_broken_ones() -> None:
    async with FakeOllama() as fake:
        fake.on(status=503, body='{"error":"x"}', headers=(("Retry-After", "3\r\nX-Split: 1"),))

        reply = await generate(fake)

        assert (reply.status, reply.body) == (503, b'{"error":"x"}')
        assert (reply.header("retry-after"), reply.header("x-split")) == ("3", "1")


async def test_a_rule_takes_its_route_its_model_and_its_turns_only() -> None:
    async with FakeOllama(models=["a", "b"]) as fake:
        fake.on(route="/api/*", model="A:latest", skip=1, times=2, status=500)

        statuses = [
            (await ask(fake.port, "POST", "/api/show", b'{"model":"%s"}' % model)).status
            for model in (b"b", b"a", b"b", b"a", b"a", b"a")
        ]

        assert statuses == [200, 200, 200, 500, 500, 200]


async def test_silence_ends_with_the_client() -> None:
    async with FakeOllama() as fake:
        fake.on(silence=True)
        writer = await opened(fake, request_bytes("GET", "/api/tags"))
        await fake.ledger.until(lambda ledger: len(ledger.entries) == 1)

        writer.close()

        await fake.ledger.until(lambda ledger: ledger.entries[0].end is End.CANCELLED)


async def test_deaf_fake_leaves_the_body_unread() -> None:
    async with FakeOllama() as fake:
        fake.on(deaf=True, route="/api/chat")
        writer = await opened(fake, request_bytes("POST", "/api/chat", b"x" * 20_000_000))

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)

        assert fake.ledger.to("/api/chat")[0].body_size == 0
        writer.transport.abort()


async def test_death_in_mid_stream_resets_and_refuses_until_the_return() -> None:
    async with FakeOllama() as fake:
        fake.on(die_after=2)

        broken = await generate(fake)
        with pytest.raises(ConnectionRefusedError):
            await generate(fake)
        end = fake.ledger.entries[0].end
        await fake.start()
        back = await generate(fake)

        assert (len(broken.chunks), broken.error.split(":")[0]) == (2, "ConnectionResetError")
        assert end is End.CUT
        assert (back.clean_end, fake.ledger.counts.loads_finished) == (True, 2)


async def test_death_before_the_first_token_leaves_no_byte() -> None:
    async with FakeOllama() as fake:
        fake.on(die_after=0)

        reply = await generate(fake)

        assert (reply.status, reply.error.split(":")[0]) == (0, "ConnectionResetError")


async def test_a_stream_can_end_without_its_last_line() -> None:
    async with FakeOllama() as fake:
        fake.on(silent_end=True, after_tokens=2)

        reply = await generate(fake)

        assert [line["done"] for line in lines(reply)] == [False, False]
        assert reply.clean_end


async def test_a_reply_can_be_huge() -> None:
    async with FakeOllama() as fake:
        fake.on(say="word", repeat=20_000)

        reply = await generate(fake, WHOLE)

        assert len(json.loads(reply.body)["response"]) == 100_000


async def test_one_model_loads_at_a_time() -> None:
    async with FakeOllama(models=["a", "b"]) as fake:
        fake.on(model="a", load_delay=60.0)
        first = await opened(fake, request_bytes("POST", "/api/generate", b'{"model":"a"}'))
        await fake.ledger.until(lambda ledger: ledger.counts.loads_started == 1)
        second = asyncio.ensure_future(generate(fake, b'{"model":"b"}'))
        await fake.ledger.until(lambda ledger: len(ledger.entries) == 2)
        await ask(fake.port, "GET", "/api/tags")
        started = fake.ledger.counts.loads_started

        first.close()
        reply = await second

        assert (started, fake.ledger.counts.loads_started) == (1, 2)
        assert json.loads(reply.body)["done_reason"] == "load"


async def test_a_loaded_model_passes_a_load_and_the_load_is_not_in_ps() -> None:
    async with FakeOllama(models=["tiny", "slow"]) as fake:
        await generate(fake)
        fake.on(model="slow", load_delay=60.0)
        writer = await opened(fake, request_bytes("POST", "/api/generate", b'{"model":"slow"}'))
        await fake.ledger.until(lambda ledger: ledger.counts.loads_started == 2)

        reply = await generate(fake)
        listed = await ask(fake.port, "GET", "/api/ps")

        assert lines(reply)[-1]["done"] is True
        assert [row["name"] for row in json.loads(listed.body)["models"]] == ["tiny:latest"]
        writer.close()


async def test_a_client_that_leaves_kills_the_load() -> None:
    async with FakeOllama(load_delay=60.0) as fake:
        writer = await opened(fake, request_bytes("POST", "/api/generate", GENERATE))
        await fake.ledger.until(lambda ledger: ledger.counts.loads_started == 1)

        writer.close()

        await fake.ledger.until(lambda ledger: ledger.counts.loads_cancelled == 1)
        assert fake.daemon.scheduler.runners == {}


async def test_only_a_full_load_queue_says_busy() -> None:
    async with FakeOllama(models=["a", "b", "c"], load_delay=60.0, max_queue=1) as fake:
        writers = []
        for name in (b"a", b"b"):
            body = b'{"model":"%s"}' % name
            writers.append(await opened(fake, request_bytes("POST", "/api/generate", body)))
            await fake.ledger.until(lambda ledger: ledger.counts.loads_started == 1)
        await fake.ledger.until(lambda ledger: len(ledger.entries) == 2)

        reply = await generate(fake, b'{"model":"c"}')

        assert reply.status == 503
        assert b"server busy, please try again.  maximum pending" in reply.body
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("slots", [1, 3])
async def test_a_loaded_model_runs_as_many_as_it_has_slots(slots: int) -> None:
    async with FakeOllama(num_parallel=slots, token_delay=0.005) as fake:
        replies = await asyncio.gather(*(generate(fake) for _ in range(6)))

        assert [lines(reply)[-1]["done"] for reply in replies] == [True] * 6
        assert fake.ledger.counts.max_running == slots
        assert fake.ledger.counts.loads_finished == 1


@pytest.mark.parametrize("body", [GENERATE, WHOLE])
async def test_a_client_that_leaves_frees_the_slot(body: bytes) -> None:
    async with FakeOllama() as fake:
        fake.on(token_delay=60.0)
        writer = await opened(fake, request_bytes("POST", "/api/generate", body))
        await fake.ledger.until(lambda ledger: ledger.counts.running == 1)

        writer.close()

        await fake.ledger.until(lambda ledger: ledger.counts.generations_cancelled == 1)
        assert lines(await generate(fake))[-1]["done"] is True
        assert fake.ledger.entries[0].end is End.CANCELLED


async def test_another_num_ctx_waits_and_loads_again() -> None:
    async with FakeOllama() as fake:
        fake.on(token_delay=0.01)
        other = b'{"model":"tiny","prompt":"hi","options":{"num_ctx":99}}'
        first = asyncio.ensure_future(generate(fake))
        await fake.ledger.until(lambda ledger: ledger.counts.running == 1)

        await generate(fake, other)

        assert first.done()
        assert fake.ledger.counts.loads_finished == 2


async def test_unload_is_answered_at_once_and_done_when_idle() -> None:
    async with FakeOllama() as fake:
        fake.on(token_delay=0.01)
        running = asyncio.ensure_future(generate(fake))
        await fake.ledger.until(lambda ledger: ledger.counts.running == 1)

        reply = await generate(fake, b'{"model":"tiny","keep_alive":0}')

        assert json.loads(reply.body)["done_reason"] == "unload"
        assert not running.done()
        await running
        await fake.ledger.until(lambda ledger: ledger.counts.unloads == 1)


async def test_ledger_keeps_headers_as_they_came_and_hashes_long_bodies() -> None:
    async with FakeOllama() as fake:
        headers = [("HOST", "localhost"), ("x-Two", "1"), ("X-One", "a, b")]
        body = json.dumps({"model": "tiny", "pad": "x" * (1 << 20)}).encode()

        await ask(fake.port, "POST", "/api/show", body, headers)

        entry = fake.ledger.entries[0]
        assert entry.headers[:3] == headers
        assert (entry.body, entry.body_size, entry.model) == (b"", len(body), "tiny")
        assert (entry.end, entry.status) == (End.SERVED, 200)


async def test_a_process_is_steered_over_http_and_dies_for_real() -> None:
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_wrap.testing", "--models", "a,b=other", "--say", "one two"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert program.stdout is not None
    port = int((await program.stdout.readline()).rpartition(b":")[2])
    rules = b'[{"route": "/api/chat", "die_after": 1}]'
    chat = b'{"model":"a","messages":[{"role":"user","content":"hi"}]}'

    spoken = await ask(port, "POST", "/api/generate", b'{"model":"a","prompt":"x","stream":false}')
    added = await ask(port, "POST", "/_fake/script", rules)
    ledger = await ask(port, "GET", "/_fake/ledger")
    wrong = await ask(port, "POST", "/_fake/script", b'{"nope": 1}')
    broken = await ask(port, "POST", "/api/chat", chat)

    assert json.loads(spoken.body)["response"] == " one two"
    assert json.loads(added.body) == {"added": 1}
    assert [entry["target"] for entry in json.loads(ledger.body)["entries"]] == ["/api/generate"]
    assert wrong.status == 400
    assert (len(broken.chunks), broken.clean_end) == (1, False)
    assert await program.wait() == 1


async def test_an_answer_begins_with_the_last_mark_of_its_request_where_echo_is_set() -> None:
    async with FakeOllama(echo=True, say="a b") as fake:
        reply = await ask(
            fake.port,
            "POST",
            "/api/generate",
            b'{"model":"tiny","prompt":"#x-1 #y2 why?","stream":false}',
        )

        assert json.loads(reply.body)["response"] == " #y2 a b"


async def test_a_book_has_each_request_when_it_was_read_and_when_it_ended() -> None:
    async with FakeOllama() as fake:
        book = io.StringIO()
        fake.ledger.write_to(book)

        await generate(fake, WHOLE)
        await fake.ledger.until(lambda ledger: bool(ledger.entries[-1].sent))

    rows = [json.loads(line) for line in book.getvalue().splitlines()]
    assert [(row["number"], row["end"], row["status"]) for row in rows] == [
        (1, "open", 0),
        (1, "served", 200),
    ]
    assert rows[0]["body"] == WHOLE.decode()
    assert rows[0]["at"] <= rows[1]["at"]
