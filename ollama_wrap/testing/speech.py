"""What the fake's engine says, token by token.

Owns: the words, their pace, the counts of a generation, and failures while it runs.
Must not know: the routes that wrap the tokens.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from ollama_wrap.testing.ledger import Ledger
from ollama_wrap.testing.sched import Scheduler, Wish
from ollama_wrap.testing.script import FAILURES, Rule

#: The recorded engine counts every prompt as seven tokens
PROMPT_TOKENS = 7


class RunFailed(Exception):
    """The engine failed; with the status and the text that stock makes of it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Said:
    """The end of a generation. Times in nanoseconds."""

    text: str
    tokens: int
    reason: str
    total: int
    load: int


@dataclass(slots=True)
class Voice:
    """The engine of one node: how it speaks, and what it needs to do so."""

    words: tuple[str, ...]
    token_delay: float
    scheduler: Scheduler
    ledger: Ledger
    die: Callable[[], None]

    async def speak(
        self, wish: Wish, rule: Rule, most: int | None = None
    ) -> AsyncGenerator[str | Said, None]:
        """Yield tokens, then Said. Raises Refused (queue, load) and RunFailed.

        `most`: the number of tokens the client allowed. Closing the generator cancels.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        # Who waits for a slot keeps the model loaded meanwhile.
        async with self.scheduler.runner(wish) as runner, runner.slots:
            loaded = loop.time()
            self.ledger.started()
            counts = self.ledger.counts
            text, count = "", 0
            delay = self.token_delay if rule.token_delay is None else rule.token_delay
            try:
                await asyncio.sleep(rule.prompt_delay)
                _fail(rule, "prompt", 0)
                for token in self._plan(rule, most):
                    await asyncio.sleep(delay)
                    if rule.die_after == count:
                        await self._end()
                    _fail(rule, "stream", count)
                    text, count = text + token, count + 1
                    yield token
                # After the last word, before the line that ends it.
                if rule.die_after is not None and rule.die_after >= count:
                    await self._end()
            except RunFailed:
                counts.generations_failed += 1
                raise
            except (asyncio.CancelledError, GeneratorExit):
                counts.generations_cancelled += 1
                raise
            else:
                counts.generations_finished += 1
            finally:
                counts.running -= 1
                self.ledger.note()
        if rule.silent_end:
            return
        # Stopped by the client's limit, or because all was said.
        cut = most is not None and count >= most
        now = loop.time()
        yield Said(
            text, count, "length" if cut else "stop", _nanos(now - begun), _nanos(loaded - begun)
        )

    def _plan(self, rule: Rule, most: int | None) -> list[str]:
        words = split(rule.say) if rule.say is not None else self.words
        limit = rule.after_tokens if rule.silent_end else None
        return (list(words) * rule.repeat)[:limit][:most]

    async def _end(self) -> None:
        self.die()
        # In-process the death cancels this task; nothing more is to be said till then.
        await asyncio.Event().wait()


def split(text: str) -> tuple[str, ...]:
    """Return the words of a text as tokens, each with the blank before it."""
    return tuple(f" {word}" for word in text.split())


def tokens_of(text: str) -> list[int]:
    """Return the token ids that the recorded engine would give a text: one a character."""
    return [ord(char) - 97 if "a" <= char <= "z" else ord(char) for char in text]


def _fail(rule: Rule, when: str, count: int) -> None:
    failure = FAILURES.get(rule.failure)
    if failure is None or failure.when != when:
        return
    if when == "prompt" or count == rule.after_tokens:
        raise RunFailed(failure.status, failure.text)


def _nanos(seconds: float) -> int:
    return max(int(seconds * 1e9), 1)
