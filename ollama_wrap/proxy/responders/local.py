"""Passed on to the local Ollama: one attempt, no retry, no limit."""

from ollama_wrap.call import Call
from ollama_wrap.errors import Unavailable
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.means import Wire
from ollama_wrap.proxy.responders.failed import failed
from ollama_wrap.reply import Reply


class Local:
    """Asks this host's own Ollama, whatever is known of it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        """See `Responder`."""
        upstream = self._wire.fleets.current.local
        upstream.take(None)
        attempt = Attempt(self._wire, call, upstream, None)
        await attempt.run(may_move=None)
        if attempt.reply is None:
            raise failed(call, [attempt])
        attempt.reply.origin.reason = "hop" if call.hop else "local"
        return attempt.reply
