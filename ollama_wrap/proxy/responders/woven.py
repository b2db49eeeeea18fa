"""Progress of several nodes as one stream of lines, each line marked with its node.

Woven is the Source of such an answer: it asks the nodes when the first byte may go
out, and ends them when the client leaves. An error line of a node is kept for the
end, because clients stop reading there. It must not know why these nodes are asked.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ollama_wrap import tasks
from ollama_wrap.dialects.gojson import quoted
from ollama_wrap.dialects.lists import extended
from ollama_wrap.errors import BadReply, UpstreamError
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy import ask
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.reply import Sink

#: most bytes of one line, and of an answer in one piece
LINE = 1024 * 1024


class _Line(msgspec.Struct):
    status: str = ""
    error: str | None = None


_line = msgspec.json.Decoder(_Line)


class Woven:
    """Lines of all `upstreams`; `begin` makes an attempt at one of them.

    `known(node id)`: comes back when what the node changed is known here.
    """

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        begin: Callable[[Upstream], Attempt],
        known: Callable[[str], Awaitable[None]],
    ) -> None:
        self._upstreams = upstreams
        self._begin = begin
        self._known = known
        self._sink: Sink | None = None
        self._work: list[asyncio.Task[None]] = []
        self._open: list[Attempt] = []
        self._faults: dict[str, str | None] = {}
        self._paused = False

    def start(self, sink: Sink) -> None:
        """See `reply.Source`."""
        self._sink = sink
        self._work = [
            tasks.start(self._follow(one), f"spread {one.node.id}") for one in self._upstreams
        ]

    def pause(self) -> None:
        """See `reply.Source`."""
        self._paused = True
        for attempt in self._open:
            attempt.pause()

    def resume(self) -> None:
        """See `reply.Source`."""
        self._paused = False
        for attempt in self._open:
            attempt.resume()

    def close(self) -> None:
        """See `reply.Source`."""
        self._sink = None
        for task in self._work:
            task.cancel()

    async def _follow(self, upstream: Upstream) -> None:
        attempt = self._begin(upstream)
        # What stands here if the task is cancelled.
        fault: str | None = "it was not asked to the end"
        try:
            fault = await self._run(attempt)
        except UpstreamError as error:
            fault = error.text
        finally:
            attempt.close()
            self._ended(upstream.node.id, fault)

    async def _run(self, attempt: Attempt) -> str | None:
        """Ask the node and pass on what it says; why it failed, or None."""
        await attempt.run(may_move=None)
        reply = attempt.reply
        if reply is None:
            return unanswered(attempt)
        if reply.status != 200:
            return fault(reply.status, await ask.whole(reply, LINE))
        strand = _Strand(attempt.upstream.node.id, self._pass)
        self._open.append(attempt)
        try:
            attempt.start(strand)
            # Paused before this one had begun.
            if self._paused:
                attempt.pause()
            await strand.ended
        finally:
            self._open.remove(attempt)
        if strand.fault is None:
            await self._known(attempt.upstream.node.id)
        return strand.fault

    def _pass(self, lines: list[bytes]) -> None:
        if self._sink is not None:
            self._sink.feed(lines)

    def _ended(self, node: str, fault: str | None) -> None:
        self._faults[node] = fault
        sink = self._sink
        # Only the last one knows how all of it ended.
        if sink is None or len(self._faults) < len(self._upstreams):
            return
        nodes = [one.node.id for one in self._upstreams]
        failed = [f"{node}: {text}" for node in nodes if (text := self._faults[node]) is not None]
        last = f'{{"error":{quoted("; ".join(failed))}}}' if failed else '{"status":"success"}'
        sink.feed([last.encode() + b"\n"])
        sink.end(None)


class _Strand:
    """The Sink of one node's lines; when it has `ended`, `fault` says why it failed."""

    def __init__(self, node: str, pass_on: Callable[[list[bytes]], None]) -> None:
        self.fault: str | None = "it ended without success"
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._node = quoted(node)
        self._pass_on = pass_on
        self._rest = b""

    def feed(self, pieces: list[bytes]) -> None:
        """See `reply.Sink`."""
        *lines, self._rest = b"".join((self._rest, *pieces)).split(b"\n")
        if marked := [text for line in lines if (text := self._marked(line)) is not None]:
            self._pass_on(marked)
        if len(self._rest) > LINE:
            self.end(BadReply("a line of its answer is too long"))

    def end(self, error: UpstreamError | None) -> None:
        """See `reply.Sink`."""
        rest, self._rest = self._rest, b""
        if error is not None:
            self.fault = error.text
        # A last line without its end.
        elif (marked := self._marked(rest)) is not None:
            self._pass_on([marked])
        if not self.ended.done():
            self.ended.set_result(None)

    def _marked(self, line: bytes) -> bytes | None:
        """The line as it goes on; None: it stays here."""
        if not line.strip():
            return None
        try:
            said = _line.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.fault = "its answer cannot be read"
            return None
        # Clients stop at an error, though other nodes may still go on.
        if said.error is not None:
            self.fault = said.error
            return None
        self.fault = None if said.status == "success" else self.fault
        return extended(line, "node", self._node) + b"\n"


def fault(status: int, body: bytes) -> str:
    """What an error says."""
    try:
        text = _line.decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = None
    return text or f"it answered {status}"


def unanswered(attempt: Attempt) -> str:
    """Why there is no answer."""
    return attempt.broken.text if attempt.broken is not None else attempt.outcome.word
