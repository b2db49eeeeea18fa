"""What each part gets of the settings."""

from typing import Any

import pytest

from ollama_wrap import portions
from ollama_wrap.config import Settings
from ollama_wrap.nodes.fleet import Fleet
from tests.fakes.nodes import fleet, upstream


def settings(**given: Any) -> Settings:
    return Settings.model_validate(given)


def nodes() -> Fleet:
    return fleet(upstream("local"), upstream("r1=h1.lan"))


def test_pools_and_attempts_get_the_times_of_nodes() -> None:
    made = settings(upstream={"connect": 7, "tcp_idle": 8, "first_byte": 9, "total": 10})

    assert portions.times(made).connect == 7
    assert portions.times(made).alive.idle == 8
    assert (portions.waits(made).first_byte, portions.waits(made).total) == (9, 10)


def test_budget_and_queue_get_theirs() -> None:
    made = settings(
        retry={"attempts": 5, "backoff": 2}, upstream={"replay_limit": 6}, queue={"per_key": 7}
    )

    allowance = portions.allowance(made)
    assert (allowance.attempts, allowance.backoff, allowance.body) == (5, 2, 6)
    assert portions.hold(made).per_key == 7


def test_lower_mark_of_a_buffer_is_never_above_the_upper_one() -> None:
    made = settings(upstream={"relay_high": 1000, "relay_low": 5000}, client={"max_streams": 3})

    assert portions.limits(made, None).marks == (1000, 1000)
    assert portions.limits(made, None).streams == 3


@pytest.mark.parametrize("token", [None, "a token that is long enough to be one"])
def test_door_gets_names_of_nodes_and_the_token(token: str | None) -> None:
    made = settings(admin_token=token, protect="all", server={"listen": "127.0.0.1:4711"})

    rules = portions.rules(made, nodes(), "box", frozenset)

    assert rules.node_hosts == {"h1.lan"}
    assert (rules.admin_token, rules.protect, rules.hostname) == (token, "all", "box")
    assert rules.listeners == ("127.0.0.1:4711",)
    assert not rules.tokens


def test_choices_stand_above_three_settings() -> None:
    made = portions.overridable(settings(distributed=False, standalone=True, fallback=False))

    assert (made.distributed, made.standalone, made.fallback) == (False, True, False)
