"""What is said when nobody answered."""

from dataclasses import dataclass
from typing import cast

import pytest

from ollama_wrap.errors import BadReply, ConnectFailed, StreamBroken, UpstreamError, UpstreamTimeout
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy import outcome
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.outcome import Outcome
from ollama_wrap.proxy.responders.failed import failed
from tests.fakes.nodes import call, upstream


@dataclass
class Tried:
    """The facts of an attempt that got no answer."""

    upstream: Upstream
    outcome: Outcome
    broken: UpstreamError
    sent: bool


def attempt(node: str, end: Outcome, error: UpstreamError, *, sent: bool | None = None) -> Attempt:
    return cast("Attempt", Tried(upstream(node), end, error, error.sent if sent is None else sent))


@pytest.mark.parametrize(
    "error, repeatable, sent, status",
    [
        (ConnectFailed("refused"), True, False, 503),
        (ConnectFailed("refused"), False, False, 503),
        (StreamBroken("reset"), True, True, 503),
        (StreamBroken("reset"), False, True, 502),
        (BadReply("garbage"), True, True, 502),
        (UpstreamTimeout("late"), True, True, 504),
        (UpstreamTimeout("late"), False, True, 502),
        (UpstreamTimeout("no connection"), True, False, 503),
    ],
)
def test_status_says_what_is_known_of_the_request(
    error: UpstreamError, repeatable: bool, sent: bool, status: int
) -> None:
    asked = call()
    asked.repeatable = repeatable
    tried = attempt("r1=h1", outcome.of_error(error), error, sent=sent)

    assert failed(asked, [tried]).status == status


def test_one_node_is_named_with_its_fault() -> None:
    error = failed(call(), [attempt("r1=h1", outcome.CONNECT, ConnectFailed("h1: refused"))])

    assert error.text == "node r1 does not answer: h1: refused"
    assert error.attempts == (("r1", "connect"),)


def test_our_own_ollama_is_named_with_its_address() -> None:
    error = failed(call(), [attempt("local", outcome.CONNECT, ConnectFailed("refused"))])

    assert error.text == "Ollama at http://127.0.0.1:11436 does not answer: refused"


def test_several_nodes_are_named_in_order() -> None:
    tried = [
        attempt("r1=h1", outcome.CONNECT, ConnectFailed("refused")),
        attempt("r2=h2", outcome.RESET, StreamBroken("reset")),
    ]

    error = failed(call(), tried)

    assert error.text == "no node could answer: r1 (connect), r2 (reset)"


def test_request_that_may_have_done_something_is_said_to() -> None:
    asked = call()
    asked.repeatable = False

    error = failed(asked, [attempt("r1=h1", outcome.RESET, StreamBroken("reset"))])

    assert error.text.endswith("outcome unknown")
