"""The error of a call that no node answered: which status, and a text that helps."""

from collections.abc import Sequence

from ollama_wrap.call import Call, Kind
from ollama_wrap.errors import AttemptsFailed, BadReply, UpstreamTimeout
from ollama_wrap.proxy.attempt import Attempt


def failed(call: Call, attempts: Sequence[Attempt]) -> AttemptsFailed:
    """What is said when all of `attempts` got no answer; there is at least one."""
    last = attempts[-1]
    words = [(one.upstream.node.id, one.outcome.word) for one in attempts]
    status = _status(call, last)
    if len(attempts) > 1:
        asked = ", ".join(f"{node} ({word})" for node, word in words)
        return AttemptsFailed(f"no node could answer: {asked}", words, status=status)
    node = last.upstream.node
    who = f"Ollama at {node.address}" if node.local else f"node {node.id}"
    if status == 502 and not call.repeatable and last.sent:
        late = isinstance(last.broken, UpstreamTimeout)
        why = f"gave {last.broken}" if late else "ended the connection before it answered"
        text = f"{who} {why}: outcome unknown"
    else:
        text = f"{who} does not answer: {last.broken or last.outcome.word}"
    return AttemptsFailed(text, words, status=status)


def _status(call: Call, last: Attempt) -> int:
    error = last.broken
    if isinstance(error, BadReply):
        return 502
    # What changes something may have been done; only of a question it is known that it is late.
    question = call.repeatable or call.kind is Kind.INFER
    if isinstance(error, UpstreamTimeout) and last.sent and question:
        return 504
    return 502 if not call.repeatable and last.sent else 503
