from functools import partial
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ollama_wrap.config.groups import Circuit as Rules
from ollama_wrap.nodes.circuit import Circuit, CircuitState, Cooldown, Cooldowns


class Middle(Random):
    """Dice that always fall on the middle, so that times are round."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


DICE = Middle()


def failing(circuit: Circuit, times: int, *, at: float = 0.0) -> Circuit:
    for _ in range(times):
        circuit = circuit.failed(at, DICE)
    return circuit


def closed_again(circuit: Circuit, at: float) -> Circuit:
    return circuit.succeeded(at).succeeded(at)


def test_three_failures_in_a_row_open_it_for_ten_seconds() -> None:
    twice = failing(Circuit(), 2)
    opened = twice.failed(0.0, DICE)

    assert twice.state(0.0) is CircuitState.CLOSED
    assert opened.state(9.9) is CircuitState.OPEN
    assert (opened.allows(9.9), opened.allows(10.0)) == (False, True)
    assert opened.state(10.0) is CircuitState.HALF_OPEN
    assert opened.retry_at == 10.0


def test_success_between_failures_ends_the_row() -> None:
    circuit = failing(failing(Circuit(), 2).succeeded(0.0), 2)

    assert circuit.state(0.0) is CircuitState.CLOSED


@pytest.mark.parametrize("attempts, state", [(9, "closed"), (10, "open")])
def test_half_of_ten_attempts_in_the_window_open_it(attempts: int, state: str) -> None:
    circuit = Circuit()
    for number in range(attempts):
        good = number % 2 == 0
        circuit = circuit.succeeded(1.0) if good else circuit.failed(1.0, DICE)

    assert circuit.state(1.0) == state


def test_less_than_half_of_many_attempts_leaves_it_closed() -> None:
    circuit = Circuit()
    for _ in range(30):
        circuit = circuit.succeeded(1.0).succeeded(1.0).failed(1.0, DICE)

    assert circuit.state(1.0) is CircuitState.CLOSED


def test_attempts_older_than_the_window_do_not_count() -> None:
    circuit = Circuit()
    for number in range(40):
        at = number * 8.0
        circuit = circuit.succeeded(at) if number % 2 else circuit.failed(at, DICE)

    assert circuit.state(320.0) is CircuitState.CLOSED
    assert len(circuit.window) <= 6


def test_one_trial_at_a_time() -> None:
    half_open = failing(Circuit(), 3)
    trying = half_open.tried()

    assert not trying.allows(10.0)
    assert trying.tried() is trying
    assert trying.released().allows(10.0)
    assert half_open.released() is half_open
    assert Circuit().tried() == Circuit()


def test_two_successes_close_it() -> None:
    once = failing(Circuit(), 3).tried().succeeded(11.0)

    assert once.allows(11.0)
    assert once.state(11.0) is CircuitState.HALF_OPEN
    assert once.succeeded(12.0).state(12.0) is CircuitState.CLOSED


def test_call_from_before_it_opened_does_not_close_it() -> None:
    opened = failing(Circuit(), 3)

    assert opened.succeeded(1.0).succeeded(2.0) is opened
    # A trial is one, also where nobody else was left and it came early.
    early = opened.tried().succeeded(1.0).tried().succeeded(2.0)
    assert early.state(2.0) is CircuitState.CLOSED


def test_failed_trial_doubles_the_time_up_to_five_minutes() -> None:
    circuit, at, spans = failing(Circuit(), 3), 0.0, []
    for _ in range(7):
        assert circuit.retry_at is not None
        spans.append(circuit.retry_at - at)
        at = circuit.retry_at
        circuit = circuit.tried().failed(at, DICE)

    assert spans == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]


def test_failure_of_a_call_from_before_changes_no_open_time() -> None:
    opened = failing(Circuit(), 3)

    late = opened.failed(5.0, DICE)

    assert late.retry_at == opened.retry_at


def test_each_quiet_minute_takes_one_doubling_back() -> None:
    circuit = failing(Circuit(), 3)
    circuit = circuit.tried().failed(10.0, DICE)
    closed = closed_again(circuit, 30.0)

    soon = failing(closed, 3, at=80.0)
    later = failing(closed, 3, at=95.0)
    much_later = failing(closed, 3, at=1_000.0)

    assert [one.retry_at for one in (soon, later, much_later)] == [120.0, 115.0, 1_010.0]


def test_open_times_vary_by_a_fifth() -> None:
    spans = {failing_with(Random(seed)) for seed in range(200)}

    assert 8.0 <= min(spans) < 8.5
    assert 11.5 < max(spans) <= 12.0


def failing_with(dice: Random) -> float:
    circuit = Circuit()
    for _ in range(3):
        circuit = circuit.failed(0.0, dice)
    assert circuit.retry_at is not None
    return circuit.retry_at


def test_rules_that_are_set_hold() -> None:
    rules = Rules.model_validate({"failures": 1, "open": "1s", "decay": "0", "window": "0"})

    opened = Circuit(rules=rules).failed(0.0, DICE)

    assert opened.retry_at == 1.0
    assert closed_again(opened, 2.0).failed(3.0, DICE).retry_at == 5.0


def test_second_failure_of_a_model_cools_it_for_a_minute() -> None:
    once = Cooldown().failed(0.0, 1, DICE)
    twice = once.failed(0.0, 1, DICE)

    assert not once.cooling(0.0)
    assert (twice.cooling(59.9), twice.cooling(60.0)) == (True, False)


def test_failure_that_weighs_double_cools_at_once() -> None:
    assert Cooldown().failed(0.0, 2, DICE).until == 60.0


def test_cooling_doubles_up_to_a_quarter_of_an_hour() -> None:
    cooldown, at, spans = Cooldown(), 0.0, []
    for _ in range(6):
        cooldown = cooldown.failed(at, 2, DICE)
        spans.append(cooldown.until - at)
        at = cooldown.until

    assert spans == [60.0, 120.0, 240.0, 480.0, 900.0, 900.0]


def test_failures_while_it_cools_do_not_prolong_it() -> None:
    cooling = Cooldown().failed(0.0, 2, DICE)

    assert cooling.failed(10.0, 2, DICE).until == cooling.until


def cools(cooldowns: Cooldowns, *options: str) -> list[bool]:
    return [cooldowns.cooling("m", 1.0, partial(str, one)) for one in options]


def test_model_cools_with_the_options_that_it_failed_with() -> None:
    cooldowns = Cooldowns()
    cooldowns.failed("m", "num_ctx=9", 0.0, 2, DICE)
    cooldowns.failed("m", "", 0.0, 1, DICE)

    assert cools(cooldowns, "num_ctx=9", "", "num_ctx=8") == [True, False, False]
    # Whoever does not say which ones is told of any.
    assert (cooldowns.cooling("m", 1.0), cooldowns.cooling("n", 1.0)) == (True, False)


def test_success_ends_the_row_of_its_own_options_alone() -> None:
    cooldowns = Cooldowns()
    for options in ("a", "b"):
        cooldowns.failed("m", options, 0.0, 2, DICE)

    cooldowns.succeeded("m", lambda: "a")
    left = cools(cooldowns, "a", "b")
    cooldowns.succeeded("m", lambda: "b")

    assert left == [False, True]
    assert cooldowns.by_key == {}


def test_clients_that_make_up_options_fill_no_memory() -> None:
    cooldowns = Cooldowns()
    for number in range(1000):
        cooldowns.failed("m", f"num_ctx={number}", 0.0, 2, DICE)

    assert len(cooldowns.by_key["m"]) == 16
    assert cools(cooldowns, "num_ctx=999", "num_ctx=0") == [True, False]


def test_other_rules_hold_for_what_cools_already() -> None:
    cooldowns = Cooldowns()
    cooldowns.failed("m", "", 0.0, 2, DICE)

    cooldowns.obey(Rules(cooldown=7.0))
    cooldowns.failed("m", "", 61.0, 2, DICE)

    assert not cooldowns.cooling("m", 61.0 + 15.0)


class Breaker(RuleBasedStateMachine):
    """Any order of attempts, ends and waits; time runs forward."""

    @initialize(seed=st.integers(0, 1_000))
    def start(self, seed: int) -> None:
        self.now = 0.0
        self.dice = Random(seed)
        self.circuit = Circuit()
        self.row = 0
        self.trials = 0

    @rule(seconds=st.floats(0.0, 400.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.circuit.allows(self.now))
    @rule(end=st.sampled_from(["failed", "succeeded", "released", "runs"]))
    def attempt(self, end: str) -> None:
        half_open = self.circuit.retry_at is not None
        self.circuit = self.circuit.tried()
        assert self.circuit.trying is half_open
        if end == "failed":
            self.circuit = self.circuit.failed(self.now, self.dice)
            self.row += 1
            assert not half_open or self.circuit.state(self.now) is CircuitState.OPEN
            assert self.row < 3 or self.circuit.state(self.now) is CircuitState.OPEN
        elif end == "succeeded":
            self.circuit = self.circuit.succeeded(self.now)
            self.row = 0
        elif end == "released":
            self.circuit = self.circuit.released()

    @rule()
    def one_that_runs_ends(self) -> None:
        self.circuit = self.circuit.released()

    @invariant()
    def it_lets_calls_through_again_within_five_minutes(self) -> None:
        later = self.circuit.released()
        assert later.allows(self.now + 300.0)

    @invariant()
    def it_never_lets_a_second_trial_through(self) -> None:
        assert not (self.circuit.trying and self.circuit.allows(self.now + 1_000.0))

    @invariant()
    def state_and_permission_agree(self) -> None:
        state = self.circuit.state(self.now)
        assert (state is CircuitState.OPEN) <= (not self.circuit.allows(self.now))
        assert (state is CircuitState.CLOSED) <= self.circuit.allows(self.now)
        assert len(self.circuit.window) <= 6


TestBreaker = Breaker.TestCase
TestBreaker.settings = settings(max_examples=2_000, stateful_step_count=15, deadline=None)
