"""The tree of errors, and what its docstring draws of it."""

import inspect

import pytest

from ollama_wrap import errors
from ollama_wrap.errors import AttemptsFailed, ConfigError, Overloaded, StateError, WrapError

CLASSES = [
    one
    for one in vars(errors).values()
    if inspect.isclass(one) and one.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_is_one_of_ours_and_is_drawn(error: type[Exception]) -> None:
    assert issubclass(error, WrapError)
    assert error.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_has_a_status_and_a_code(error: type[WrapError]) -> None:
    assert 400 <= error.status <= 599
    assert error.code == error.code.upper()


def test_fields_of_the_class_hold_unless_one_is_given() -> None:
    plain = Overloaded("too much in hand")
    special = Overloaded("later", status=429, code="RATE", retry_after=9, details={"a": 1})

    assert (plain.status, plain.code, plain.retry_after, plain.details) == (503, "UNHEALTHY", 1, {})
    assert (special.status, special.code, special.retry_after) == (429, "RATE", 9)
    assert special.details == {"a": 1}
    assert (Overloaded.status, Overloaded.code) == (503, "UNHEALTHY")


def test_text_is_what_people_read() -> None:
    error = StateError("the disk is full")

    assert (error.text, str(error)) == ("the disk is full", "the disk is full")


def test_bad_settings_are_said_together() -> None:
    error = ConfigError(["A: no", "B: neither"])

    assert error.problems == ("A: no", "B: neither")
    assert error.text == "A: no\nB: neither"


def test_failed_attempts_are_kept_in_their_order() -> None:
    error = AttemptsFailed("none", [("r1", "connect"), ("r2", "reset")], status=502)

    assert error.attempts == (("r1", "connect"), ("r2", "reset"))
    assert (error.status, error.answer) == (502, None)
