"""Both ends of a body: a Source that says what the test says, a Sink that keeps what it is fed."""

from ollama_wrap.errors import UpstreamError
from ollama_wrap.reply import Sink


class Stream:
    """A body that comes when the test says. `told` is what was asked of it, in order."""

    def __init__(self) -> None:
        self.sink: Sink | None = None
        self.told: list[str] = []

    @property
    def closed(self) -> bool:
        return "close" in self.told

    @property
    def paused(self) -> bool:
        asked = [word for word in self.told if word in {"pause", "resume"}]
        return asked[-1:] == ["pause"]

    def start(self, sink: Sink) -> None:
        self.sink = sink

    def say(self, *pieces: bytes) -> None:
        assert self.sink is not None
        self.sink.feed(list(pieces))

    def end(self, error: UpstreamError | None = None) -> None:
        assert self.sink is not None
        self.sink.end(error)

    def pause(self) -> None:
        self.told.append("pause")

    def resume(self) -> None:
        self.told.append("resume")

    def close(self) -> None:
        self.told.append("close")


class Client:
    """Takes a body: its pieces, and each end that it is told of."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.ends: list[UpstreamError | None] = []

    def feed(self, pieces: list[bytes]) -> None:
        self.lines += pieces

    def end(self, error: UpstreamError | None) -> None:
        self.ends.append(error)
