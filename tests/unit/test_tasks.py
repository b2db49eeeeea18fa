import asyncio
import logging

import pytest

from ollama_wrap import tasks
from tests.fakes.clock import settle


async def test_task_is_kept_under_its_name_until_it_ends() -> None:
    free = asyncio.Event()

    task = tasks.start(free.wait(), "waiting")
    assert task.get_name() == "waiting"
    assert tasks.running() == {task}
    free.set()
    await settle()

    assert task.done()
    assert tasks.running() == frozenset()


async def test_task_runs_in_the_loop_that_is_given() -> None:
    loop = asyncio.get_running_loop()

    task = tasks.start(asyncio.sleep(0, "done"), "given", loop)

    assert await task == "done"


async def test_exception_that_ends_a_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    with caplog.at_level(logging.ERROR):
        tasks.start(fails(), "a broken loop")
        await settle()

    (line,) = caplog.records
    assert "a broken loop" in line.getMessage()
    assert line.exc_info is not None
    assert line.exc_info[0] is ZeroDivisionError


async def test_stopped_task_is_no_error_and_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def waits(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    both = [tasks.start(waits(name), name) for name in ("a", "b")]
    await settle()

    await tasks.stop(*both)

    assert ended == ["a", "b"]
    assert caplog.records == []
