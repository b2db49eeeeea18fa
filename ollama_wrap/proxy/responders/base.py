"""Responder: the contract."""

from typing import Protocol

from ollama_wrap.call import Call
from ollama_wrap.errors import Unavailable
from ollama_wrap.reply import Reply


class Responder(Protocol):
    """One way to answer."""

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        """The answer; raises Unavailable when there is none here.

        `before` is why the responder before this one had none.
        """
