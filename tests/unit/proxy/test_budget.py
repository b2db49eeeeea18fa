"""What retries and kept bodies may cost."""

import asyncio

import pytest

from ollama_wrap.observe.pressure import Measure
from ollama_wrap.proxy.budget import Allowance, Budget
from tests.fakes.clock import settle


@pytest.mark.parametrize(
    "counted, retrying, running, wanted",
    [
        (1, 0, 1, True),
        (2, 2, 1, True),
        (3, 0, 1, False),
        (1, 3, 1, False),
        (1, 3, 19, False),
        (1, 3, 20, True),
        (1, 20, 100, False),
        (1, 19, 100, True),
    ],
)
def test_retries_are_few_for_a_call_and_few_at_a_time(
    counted: int, retrying: int, running: int, wanted: bool
) -> None:
    budget = Budget(Allowance())
    budget.retrying, budget.running = retrying, running

    assert budget.may_retry(counted) is wanted


async def test_calls_that_are_too_many_to_be_tried_again_together_take_turns() -> None:
    budget = Budget(Allowance(least=2))
    ended = list[int]()

    async def call(number: int) -> None:
        assert await budget.turn(1, 10)
        ended.append(number)

    calls = [asyncio.ensure_future(call(number)) for number in range(4)]
    await settle()
    together = list(ended), budget.retrying
    budget.give_back()
    await settle()

    assert together == ([0, 1], 2)
    assert (ended, budget.retrying) == ([0, 1, 2], 2)
    budget.give_back()
    await asyncio.gather(*calls)
    assert ended == [0, 1, 2, 3]


async def test_call_that_is_given_up_while_it_waits_takes_no_turn() -> None:
    budget = Budget(Allowance(least=1))
    assert await budget.turn(1, 10)
    left, late, stays = (asyncio.ensure_future(budget.turn(1, 10)) for _ in range(3))
    await settle()

    left.cancel()
    await settle()
    budget.give_back()
    late.cancel()  # in the turn in which it got its place
    await settle()

    assert (left.cancelled(), late.cancelled(), await stays) == (True, True, True)
    assert budget.retrying == 1


async def test_place_that_comes_with_more_calls_goes_to_who_waits() -> None:
    budget = Budget(Allowance(least=1, share=0.2))
    assert await budget.turn(1, 10)
    first = asyncio.ensure_future(budget.turn(1, 10))
    await settle()

    budget.running = 10
    second = asyncio.ensure_future(budget.turn(1, 10))
    await settle()

    assert (first.done(), second.done(), budget.retrying) == (True, False, 2)
    budget.give_back()
    assert await second


async def test_call_waits_no_longer_than_it_may() -> None:
    budget = Budget(Allowance(least=1))
    assert await budget.turn(1, 10)

    assert not await budget.turn(1, 0.01)

    assert budget.may_retry(1) is False
    budget.give_back()
    assert (budget.retrying, budget.may_retry(1)) == (0, True)


async def test_nobody_waits_where_nothing_is_tried_again() -> None:
    budget = Budget(Allowance(attempts=3, least=0, share=0.0))

    assert not await budget.turn(1, 10)
    assert not await Budget(Allowance()).turn(3, 10)


@pytest.mark.parametrize("counted, most", [(1, 0.05), (2, 0.1), (3, 0.2), (9, 1.0)])
def test_back_off_doubles_up_to_a_second(counted: int, most: float) -> None:
    assert Budget(Allowance(), lambda low, high: low).backoff(counted) == 0.0
    assert Budget(Allowance(), lambda low, high: high).backoff(counted) == pytest.approx(most)


@pytest.mark.parametrize("kept, limit", [(0, 100), (950, 50), (1000, 0), (2000, 0)])
def test_body_may_be_as_large_as_what_is_left_of_all(kept: int, limit: int) -> None:
    budget = Budget(Allowance(body=100, bodies=1000))
    budget.kept = kept

    assert budget.body_limit() == limit


def test_only_the_beginning_of_a_body_is_kept_while_memory_is_short() -> None:
    budget = Budget(Allowance())

    budget.strain.put(frozenset({Measure.REFUSE}))
    short = budget.body_limit()
    budget.strain.put(frozenset({Measure.SPARE}))

    assert (short, budget.body_limit()) == (64 * 1024, 32 * 1024 * 1024)
