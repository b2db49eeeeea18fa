"""What the end of an attempt teaches: its node, the model there, and whoever watches them.

Must not know how the end came about (`attempt.py`), nor what an outcome means (`outcome.py`).
"""

from functools import partial

from ollama_wrap.call import INFER, Call
from ollama_wrap.dialects.runner import runner
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy import outcome
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.outcome import Outcome


def learn(wire: Wire, call: Call, upstream: Upstream, key: str | None, end: Outcome) -> None:
    """An attempt to have `call` answered there has ended; `key` is its model's."""
    clock = wire.clock
    now = clock.monotonic()
    # That a model can be shown says nothing of running it.
    model = key if call.kind is INFER else None
    options = partial(runner, call.body)
    upstream.record(end.verdict, model, now, clock.now(), options)
    if end.saturated:
        upstream.saturated(now)
    if end is outcome.NO_ROUTE:
        upstream.lacking.add(call.operation)
        upstream.changed.fire()
    if end.doubt:
        wire.suspect(upstream.node.id)
    if end.absent or end is outcome.DRAINED:
        wire.refresh(upstream.node.id)
