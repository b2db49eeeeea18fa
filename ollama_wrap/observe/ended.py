"""One request that ended, however it ended, as the facts that log and metrics want.

Never a prompt, an answer or a key: there is no field for them.
"""

from msgspec import Struct


class Ended(Struct, frozen=True):
    """Times are seconds, `bytes_out` counts body bytes; None is not known, or did not happen.

    `path` is without its query. `reason` and `fallback` are the words of the
    X-Ollama-* headers, `attempts` the (node, outcome) pairs in order, `error`
    a sentence of ours. `status` is 499 where the client left.
    """

    id: str
    method: str
    path: str
    operation: str
    model: str | None
    node: str | None
    reason: str | None
    fallback: str | None
    attempts: tuple[tuple[str, str], ...]
    status: int
    bytes_out: int
    tokens: int | None
    first_byte: float | None
    duration: float
    error: str | None
    prompt_tokens: int | None = None
    #: the answer came piece by piece, so that its first byte is its first token
    streamed: bool = False

    @property
    def level(self) -> str:
        """How loud the log says it."""
        return "info" if self.status < 500 else "warning"

    @property
    def per_token(self) -> float | None:
        """Seconds from one token of the answer to the next, on average."""
        if self.first_byte is None or self.tokens is None or self.tokens < 2:
            return None
        return (self.duration - self.first_byte) / (self.tokens - 1)
