"""What stays one when the line answers by other settings, and what is made anew."""

from typing import Any

from ollama_wrap import app
from ollama_wrap.call import Call, Kind, Mode
from ollama_wrap.config import Settings
from ollama_wrap.proxy.tap import Tap
from ollama_wrap.runtime import Runtime
from tests.fakes.clock import FakeClock

GIVEN = {"state": {"store": "memory"}, "nodes": {"text": "r1=http://h1"}}


class Files:
    """Settings that a reload reads."""

    def __init__(self, **given: Any) -> None:
        self.settings = Settings.model_validate(GIVEN | given)
        self.runtime = app.build(self.settings, FakeClock(), lambda: self.settings)

    async def reload(self, **given: Any) -> Runtime:
        self.settings = Settings.model_validate(GIVEN | given)
        assert self.runtime.reload is not None
        await self.runtime.reload()
        return self.runtime


def infer() -> Call:
    return Call("1", "POST", b"/api/chat", "/api/chat", [], {}, kind=Kind.INFER)


async def test_call_under_way_keeps_the_responders_that_it_began_with() -> None:
    files = Files()
    chains = files.runtime.pipeline._chains
    call = infer()
    before = chains.of(call)

    made = await files.reload(upstream={"first_byte": 9})

    after = made.pipeline._chains.of(call)
    assert [type(one) for one in after] == [type(one) for one in before]
    assert all(one is not other for one, other in zip(before, after, strict=True))
    assert before[0]._wire.waits.first_byte == 0  # type: ignore[attr-defined]
    assert after[0]._wire.waits.first_byte == 9  # type: ignore[attr-defined]


async def test_what_is_counted_for_all_calls_stays_one() -> None:
    files = Files()
    budget, running = files.runtime.pipeline.budget, files.runtime.pipeline.running
    one = running.add(infer(), None, Tap(lambda: 0.0, keep=0), 0.0)
    budget.retrying = 2

    made = await files.reload(retry={"attempts": 7})

    assert made.pipeline.running is running
    assert running.all() == (one,)
    assert made.pipeline.budget is budget
    assert (budget.allowance.attempts, budget.retrying) == (7, 2)


async def test_whoever_was_replaced_listens_no_more() -> None:
    files = Files()
    changed = files.runtime.fleets.changed
    await files.reload(cache={"ttl": 1})
    before = len(changed._callbacks)

    for ttl in range(2, 12):
        await files.reload(cache={"ttl": ttl})

    assert len(changed._callbacks) == before


async def test_mode_of_settings_holds_at_once() -> None:
    files = Files()
    await files.runtime._load()

    made = await files.reload(standalone=True)

    assert made.fleets.current.mode is Mode.STANDALONE
