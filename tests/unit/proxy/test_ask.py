"""Questions of our own."""

import pytest

from ollama_wrap.errors import BadReply, StreamBroken, UpstreamError
from ollama_wrap.proxy import ask
from ollama_wrap.reply import Reply, Sink


class Body:
    """A Source that pushes what it has, at once, and notes its end."""

    def __init__(self, *pieces: bytes, error: UpstreamError | None = None) -> None:
        self.pieces = pieces
        self.error = error
        self.closed = False

    def start(self, sink: Sink) -> None:
        for piece in self.pieces:
            sink.feed([piece])
        sink.end(self.error)

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.closed = True


async def test_body_is_put_together_and_closed() -> None:
    body = Body(b"ab", b"cd")

    assert await ask.whole(Reply(200, [], body), 4) == b"abcd"
    assert body.closed


async def test_body_of_bytes_is_there_already() -> None:
    assert await ask.whole(Reply(200, [], b"ab"), 1) == b"ab"


async def test_body_that_is_too_long_is_refused_and_closed() -> None:
    body = Body(b"ab", b"cd", b"ef")

    with pytest.raises(BadReply):
        await ask.whole(Reply(200, [], body), 3)

    assert body.closed


async def test_body_that_breaks_is_an_error() -> None:
    body = Body(b"ab", error=StreamBroken("reset"))

    with pytest.raises(StreamBroken):
        await ask.whole(Reply(200, [], body), 9)

    assert body.closed


def test_inner_call_may_be_repeated_and_knows_its_fields() -> None:
    call = ask.inner("OPTIONS", "/", [(b"Origin", b"http://a"), (b"Host", b"localhost")])

    assert (call.method, call.target, call.path) == ("OPTIONS", b"/", "/")
    assert call.fields == {b"origin": b"http://a", b"host": b"localhost"}
    assert (call.body, call.repeatable) == (b"", True)
