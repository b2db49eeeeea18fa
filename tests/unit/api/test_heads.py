"""Heads of answers: worked out once for answers that begin alike, and never where they differ."""

import pytest

from ollama_wrap.api import heads
from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.nodes.fleet import Fleets
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.reply import Reply
from tests.fakes.clock import FakeClock
from tests.fakes.exchange import FakeExchange
from tests.fakes.line import wire
from tests.fakes.nodes import fleet, key, upstream
from tests.fakes.warm import warm


def said(date: str, body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: %b\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (date.encode(), len(body), body)
    )


class Desk:
    """Answers of one node, on one connection."""

    def __init__(self) -> None:
        self.upstream = upstream("r1=h1")
        fleets = Fleets(fleet(upstream("local"), self.upstream, mode=Mode.DISTRIBUTED))
        self.means = wire(fleets)
        self.node = warm(self.means, self.upstream)
        self.heads = heads.Heads(fleets, FakeClock())

    def begin(self, number: str, date: str, body: bytes, reason: str = "loaded") -> FakeExchange:
        call = Call(number, "POST", b"/api/chat", "/api/chat", [], mode=Mode.DISTRIBUTED)
        call.model, call.body, call.kind, call.plain = "m", b"{}", Kind.INFER, True
        self.upstream.take(key("m"))
        attempt = Attempt(self.means, call, self.upstream, key("m"), reason)
        assert attempt.ask()
        self.node.says(said(date, body))
        self.means.pools.of(self.upstream.node, tuple).idle.append(self.node.connection)
        exchange = FakeExchange("POST", "/api/chat", body=b"{}")
        self.heads.begin(exchange.real, call, self._reply(attempt))
        attempt.close()
        return exchange

    def _reply(self, attempt: Attempt) -> Reply:
        reply = attempt.usual()
        assert reply is not None
        return reply


MONDAY, TUESDAY = "Mon, 16 Nov 2026 10:00:00 GMT", "Tue, 17 Nov 2026 10:00:00 GMT"


async def test_head_that_was_worked_out_before_is_the_same_but_for_what_differs() -> None:
    desk = Desk()

    first, second = desk.begin("a", MONDAY, b"{}"), desk.begin("b", TUESDAY, b"[1, 2]")

    assert [name for name, _ in second.reply_headers] == [name for name, _ in first.reply_headers]
    assert (first.header("Date"), second.header("Date")) == (MONDAY, TUESDAY)
    assert (first.header("Content-Length"), second.header("Content-Length")) == ("2", "6")
    assert (first.header("X-Request-ID"), second.header("X-Request-ID")) == ("a", "b")
    assert second.header("X-Ollama-Node") == "r1"


async def test_another_reason_is_another_head() -> None:
    desk = Desk()

    reasons = [
        desk.begin(str(count), MONDAY, b"{}", reason).header("X-Ollama-Route-Reason")
        for count, reason in enumerate(("loaded", "policy", "loaded"))
    ]

    assert reasons == ["loaded", "policy", "loaded"]


@pytest.mark.parametrize(
    "fields, may",
    [
        ([(b"Content-Type", b"application/x-ndjson")], True),
        ([(b"content-type", b"text/event-stream")], True),
        ([(b"Content-Type", b"application/json")], False),
        ([(b"Content-Type", b"application/x-ndjson"), (b"Content-Length", b"5")], False),
        ([(b"Content-Type", b"application/x-ndjson"), (b"Content-Encoding", b"gzip")], False),
        ([], False),
    ],
)
def test_only_a_stream_of_lines_can_take_a_word_of_ours(
    fields: list[tuple[bytes, bytes]], may: bool
) -> None:
    assert heads.may_mark(Reply(200, fields)) is may
