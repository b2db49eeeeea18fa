"""Questions of our own to an Ollama, down the same line as a client's: inner Calls."""

import asyncio
from dataclasses import dataclass, field

from ollama_wrap.call import Call, Header
from ollama_wrap.errors import BadReply, UpstreamError
from ollama_wrap.reply import Reply


@dataclass(slots=True)
class Collected:
    """A Sink that keeps the body; what is longer than `limit` bytes is refused."""

    limit: int
    done: "asyncio.Future[bytes]"
    _pieces: list[bytes] = field(default_factory=list)
    _size: int = 0

    def feed(self, pieces: list[bytes]) -> None:
        """See `reply.Sink`."""
        self._pieces += pieces
        self._size += sum(map(len, pieces))
        if self._size > self.limit and not self.done.done():
            self.done.set_exception(BadReply(f"an answer of more than {self.limit} bytes"))

    def end(self, error: UpstreamError | None) -> None:
        """See `reply.Sink`."""
        if self.done.done():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(b"".join(self._pieces))


async def whole(reply: Reply, limit: int) -> bytes:
    """The body of `reply`, which is closed then. Raises UpstreamError when it breaks."""
    try:
        if isinstance(reply.body, bytes):
            return reply.body
        sink = Collected(limit, asyncio.get_running_loop().create_future())
        reply.body.start(sink)
        return await sink.done
    finally:
        reply.close()


def inner(method: str, path: str, headers: list[Header], body: bytes = b"") -> Call:
    """A Call of our own."""
    return Call(
        id="inner",
        method=method,
        target=path.encode(),
        path=path,
        headers=headers,
        fields={name.lower(): value for name, value in headers},
        body=body,
        repeatable=True,
    )
