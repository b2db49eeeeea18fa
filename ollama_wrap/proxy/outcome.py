"""What the end of an attempt means: may the call be tried elsewhere, whom does it count against.

One table. *Free* attempts did no work on their node, *counted* ones may have.
The words are those of X-Ollama-Attempts and X-Ollama-Fallback-Reason.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import cache

from ollama_wrap.call import Header, Kind
from ollama_wrap.errors import (
    BadReply,
    ConnectFailed,
    NodeGone,
    UpstreamError,
    UpstreamTimeout,
)
from ollama_wrap.nodes.verdict import Blame, Verdict


class Repeat(Enum):
    """Whether another node is tried."""

    NO = "no"
    FREE = "free"
    COUNTED = "counted"


@cache
def _verdict(blame: Blame, success: bool, suspect: bool) -> Verdict:  # noqa: FBT001  cached by place
    return Verdict(blame, success=success, suspect=suspect)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended.

    `blame` says which breaker counts it; `doubt` makes the node SUSPECT and has it
    probed at once; `absent` corrects the inventory; `saturated` marks it busy.
    """

    word: str
    repeat: Repeat = Repeat.NO
    blame: Blame = Blame.NONE
    doubt: bool = False
    absent: bool = False
    saturated: bool = False
    answered: bool = False

    @property
    def verdict(self) -> Verdict:
        """What it says of the node, and of the model there."""
        return _verdict(self.blame, self.answered and self.blame is Blame.NONE, self.doubt)


SERVED = Outcome("served", answered=True)
LEFT = Outcome("client-left")
NODE_DOWN = Outcome("node-down", Repeat.FREE)
LOCAL_DOWN = Outcome("local-unhealthy", Repeat.FREE)
CONNECT = Outcome("connect", Repeat.FREE, Blame.NODE, doubt=True)
TIMEOUT = Outcome("timeout", Repeat.FREE, Blame.NODE, doubt=True)
LATE = Outcome("timeout", Repeat.COUNTED)
RESET = Outcome("reset", Repeat.COUNTED, Blame.NODE, doubt=True)
BAD = Outcome("bad-response", Repeat.COUNTED, Blame.NODE)
MISSING = Outcome("model-not-found", Repeat.FREE, absent=True, answered=True)
NO_ROUTE = Outcome("bad-response", Repeat.FREE, answered=True)
BUSY = Outcome("busy", Repeat.FREE, saturated=True, answered=True)
DRAINED = Outcome("drained", Repeat.FREE, answered=True)
LOAD = Outcome("load-failure", Repeat.COUNTED, Blame.MODEL, answered=True)
STALLED = Outcome("load-failure", Repeat.COUNTED, Blame.MODEL_DOUBLE, answered=True)
OOM = Outcome("oom", Repeat.COUNTED, Blame.MODEL, answered=True)
OOM_AT_LOAD = Outcome("oom", Repeat.COUNTED, Blame.MODEL_DOUBLE, answered=True)
GATEWAY = Outcome("bad-response", Repeat.COUNTED, doubt=True, answered=True)
#: after the first byte
CUT = Outcome("reset", blame=Blame.NODE, doubt=True)
CUT_BAD = Outcome("bad-response", blame=Blame.NODE)
CUT_GONE = Outcome("node-down", blame=Blame.NODE)
CUT_LATE = Outcome("timeout", blame=Blame.MODEL)
ENGINE = Outcome("bad-response", blame=Blame.MODEL, answered=True)

#: Statuses whose body decides; all others are the answer as they are.
DOUBTFUL = frozenset({404, 429, 500, 502, 503, 504})

# Two patterns: a name may be long and made of these very words, and one pattern for both ends
# would try each pair of them.
_NAMED = re.compile(rb"""model ['"\\]""", re.IGNORECASE)
_NO_FILE = re.compile(rb"file does not exist", re.IGNORECASE)
_NOT_FOUND = re.compile(rb"""['"\\] not found""", re.IGNORECASE)
_OOM = re.compile(
    rb"out of memory|outofmemory|cudamalloc failed|failed to allocate|not enough memory"
    rb"|requires more system memory|unable to allocate|insufficient memory",
    re.IGNORECASE,
)
_LOADING = re.compile(rb"process has terminated|error loading|requires more", re.IGNORECASE)
_STALL = re.compile(rb"timed out waiting for|llama-server.{0,40}timed out", re.IGNORECASE)
_ENGINE = re.compile(
    rb"process has terminated|unexpectedly stopped|process no longer running"
    rb"|encountered while running the model|error starting llama|error loading",
    re.IGNORECASE,
)


def of_error(error: UpstreamError) -> Outcome:
    """The outcome of an attempt that got no answer, before the first byte."""
    if isinstance(error, UpstreamTimeout):
        return LATE if error.sent else TIMEOUT
    if isinstance(error, ConnectFailed):
        return CONNECT
    return BAD if isinstance(error, BadReply) else RESET


def of_break(error: UpstreamError) -> Outcome:
    """The outcome of a reply that broke after its first byte."""
    if isinstance(error, NodeGone):
        return CUT_GONE
    if isinstance(error, UpstreamTimeout):
        return CUT_LATE
    return CUT_BAD if isinstance(error, BadReply) else CUT


def of_answer(kind: Kind, status: int, headers: list[Header], body: bytes) -> Outcome:
    """The outcome of an answer with one of the DOUBTFUL statuses."""
    if status == 404:
        return _of_404(kind, headers, body)
    if status == 500:
        return _of_500(body)
    if status == 429:
        return SERVED
    if b"server busy" in body or b"maximum pending requests" in body:
        return BUSY
    if b'"drained"' in body:
        return DRAINED
    return GATEWAY


def _of_404(kind: Kind, headers: list[Header], body: bytes) -> Outcome:
    plain = any(
        name.lower() == b"content-type" and value.startswith(b"text/plain")
        for name, value in headers
    )
    if plain:
        return NO_ROUTE if kind is Kind.INFER else SERVED
    # `model '' not found` says that the call names none, which is so everywhere.
    return MISSING if _is_absent(body) and b"model '' not found" not in body else SERVED


def _is_absent(body: bytes) -> bool:
    named = _NAMED.search(body)
    if named is not None and _NOT_FOUND.search(body, named.end()):
        return True
    return _NO_FILE.search(body) is not None


def _of_500(body: bytes) -> Outcome:
    if _OOM.search(body):
        return OOM_AT_LOAD if _LOADING.search(body) else OOM
    if _STALL.search(body):
        return STALLED
    return LOAD if _ENGINE.search(body) else SERVED
