"""What the fake does wrong, to which requests, and how often.

Owns: rules, the order they are matched in, and the failures of stock Ollama by name.
Must not know: how a fault is carried out; the connection and the speech do that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase

from ollama_wrap.testing.names import BadNameError, parse


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of the engine: when (queue, load, prompt, stream), with which status and text."""

    when: str
    status: int
    text: str


_RUN = "an error was encountered while running the model: "
_LOAD = "llama-server process has terminated: exit status 1: "
_LIMITS = (
    "model runner has unexpectedly stopped, this may be due to resource limitations"
    " or an internal error, check ollama server logs for details"
)
_TOO_LONG = (
    '{"error": {"code": 400, "message": "the request exceeds the available context size",'
    ' "type": "exceed_context_size_error"}}'
)
BUSY = Failure("queue", 503, "server busy, please try again.  maximum pending requests exceeded")
#: What stock says when its engine fails, by a name for rules; the texts are recorded ones
FAILURES: Mapping[str, Failure] = {
    "engine-dies": Failure("stream", 500, f"{_RUN}unexpected EOF"),
    "engine-dies-first": Failure("prompt", 500, f"{_RUN}unexpected EOF"),
    "runner-stopped": Failure("prompt", 500, _LIMITS),
    "out-of-memory": Failure("load", 500, f"{_LOAD}cudaMalloc failed: out of memory"),
    "bad-magic": Failure("load", 500, f"{_LOAD}error loading model: bad magic"),
    "load-timeout": Failure(
        "load", 500, "timed out waiting for llama-server to start - progress 0.00 - "
    ),
    "no-engine": Failure("load", 500, "error starting llama-server: llama-server binary not found"),
    "prompt-too-long": Failure("prompt", 400, _TOO_LONG),
    "busy": BUSY,
}

#: Answers that no server should give, by a name for rules
RAW: Mapping[str, str] = {
    "garbage": "\x16\x03\x01\x02\x00\x01\x00not http at all\r\n\r\n",
    "switch": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "huge-header": f"HTTP/1.1 200 OK\r\nX-Huge: {'h' * 1_000_000}\r\nContent-Length: 2\r\n\r\n{{}}",
    "split-header": "HTTP/1.1 200 OK\r\nX-Split: a\rb\nc\r\nContent-Length: 2\r\n\r\n{}",
    "bad-status": "HTTP/1.1 9x OK\r\nContent-Length: 2\r\n\r\n{}",
    "two-lengths": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
    "nothing": "",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing to do to the requests that match; what is not set stays as stock does it.

    Matching: `method`, `route` (a pattern for the path), `model`; the first `skip` matches are
    let through, then `times` are taken (0: all). Times are in seconds.
    """

    route: str = "*"
    method: str = ""
    model: str = ""
    times: int = 1
    skip: int = 0
    #: Before anything of the answer
    delay: float = 0.0
    #: Between the load and the first token
    prompt_delay: float = 0.0
    load_delay: float | None = None
    token_delay: float | None = None
    say: str | None = None
    #: How often the words are said: huge replies
    repeat: int = 1
    #: A name in FAILURES
    failure: str = ""
    #: For failures in mid-stream and for `silent_end`
    after_tokens: int = 3
    #: The stream ends cleanly, without its last item
    silent_end: bool = False
    #: Answer with this status, `body` and `content_type` instead of stock's answer
    status: int = 0
    body: str = ""
    content_type: str = "application/json; charset=utf-8"
    #: Added to the answer as they are, CR and LF too
    headers: tuple[tuple[str, str], ...] = ()
    #: The process dies after so many tokens; 0: before it answers
    die_after: int | None = None
    #: The connection is cut after so many bytes of the answer
    cut_after: int | None = None
    #: As `cut_after`, counted from the end of the head; may be negative
    cut_body_after: int | None = None
    #: rst or fin
    cut_how: str = "rst"
    #: Added to the Content-Length that is announced
    length_off: int = 0
    #: The chunk with this index has no readable size
    break_chunk: int | None = None
    drop_last_chunk: bool = False
    #: The whole answer is sent two times
    twice: bool = False
    #: So many 103 answers come first
    informational: int = 0
    #: These bytes (latin-1), or the ones of that name in RAW, instead of an answer
    raw: str | None = None
    #: The request is read and never answered
    silence: bool = False
    #: The body is not read and nothing is answered
    deaf: bool = False


class Script:
    """The rules in force; the first that matches takes the request."""

    def __init__(self) -> None:
        """Start without rules."""
        self._rules: list[Rule] = []
        self._seen: list[int] = []

    def add(self, *rules: Rule) -> None:
        """Append rules."""
        self._rules += rules
        self._seen += [0] * len(rules)

    def clear(self) -> None:
        """Forget every rule."""
        self._rules.clear()
        self._seen.clear()

    def deaf(self, method: str, path: str) -> bool:
        """Say whether this request's body is to stay unread; takes the rule if so."""
        return self._take(method, path, None) is not None

    def match(self, method: str, path: str, model: str) -> Rule:
        """Return the rule for this request, or one that changes nothing."""
        return self._take(method, path, model) or Rule()

    def _take(self, method: str, path: str, model: str | None) -> Rule | None:
        for at, rule in enumerate(self._rules):
            # Deaf rules are looked for before the body is read, all others after it.
            if rule.deaf != (model is None) or not _concerns(rule, method, path, model):
                continue
            # A match counts even where it is let through, so that `skip` moves on.
            self._seen[at] += 1
            turn = self._seen[at] - rule.skip
            if turn > 0 and (rule.times == 0 or turn <= rule.times):
                return rule
        return None


def from_json(given: Mapping[str, object]) -> Rule:
    """Return the rule that `given` describes. Raises TypeError for a name that no rule has."""
    known = {field.name for field in fields(Rule)}
    if unknown := set(given) - known:
        raise TypeError(f"a rule has no {', '.join(sorted(unknown))}")
    values = dict(given)
    # JSON has no tuples.
    pairs = values.get("headers")
    if isinstance(pairs, list):
        values["headers"] = tuple((str(name), str(value)) for name, value in pairs)
    return Rule(**values)  # type: ignore[arg-type]


def _concerns(rule: Rule, method: str, path: str, model: str | None) -> bool:
    if rule.method and rule.method != method:
        return False
    return fnmatchcase(path, rule.route) and (not rule.model or _same(rule.model, model or ""))


def _same(left: str, right: str) -> bool:
    try:
        return parse(left).key == parse(right).key
    except BadNameError:
        return left == right
