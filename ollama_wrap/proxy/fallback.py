"""Tries responders in order until one answers."""

from collections.abc import Sequence

from ollama_wrap.call import Call
from ollama_wrap.errors import AttemptsFailed, NoUpstream, Unavailable
from ollama_wrap.proxy.responders.base import Responder
from ollama_wrap.reply import Reply


async def answer(call: Call, responders: Sequence[Responder]) -> Reply:
    """The first answer.

    Where all failed: what the nodes answered, if they did, else the error of the
    first responder, which knows best what was wanted.
    """
    failure: Unavailable | None = None
    for responder in responders:
        try:
            reply = await responder.answer(call, failure)
        except Unavailable as error:
            failure = failure or error
        except BaseException:
            _discard(failure)
            raise
        else:
            _discard(failure)
            return reply
    if isinstance(failure, AttemptsFailed) and isinstance(failure.answer, Reply):
        return failure.answer
    raise failure or NoUpstream("nothing here answers this")


def _discard(failure: Unavailable | None) -> None:
    if isinstance(failure, AttemptsFailed) and isinstance(failure.answer, Reply):
        failure.answer.close()
