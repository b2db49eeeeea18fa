"""What retries and kept bodies may cost."""

import pytest

from ollama_wrap.observe.pressure import Measure
from ollama_wrap.proxy.budget import Allowance, Budget


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
