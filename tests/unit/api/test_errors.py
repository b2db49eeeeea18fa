import json

from ollama_wrap.api.errors import render, render_own
from ollama_wrap.errors import (
    Forbidden,
    LimitReached,
    NoUpstream,
    StoreUnavailable,
    Unauthorized,
    WrapError,
)
from tests.unit.api.calls import call


def test_stock_routes_get_the_error_in_their_dialect() -> None:
    native = render(NoUpstream("nobody"), call("POST", "/api/chat"))
    openai = render(NoUpstream("nobody"), call("POST", "/v1/chat/completions"))
    anthropic = render(NoUpstream("nobody"), call("POST", "/v1/messages"))

    assert native[0] == 503
    assert json.loads(native[2]) == {"error": "nobody"}
    assert json.loads(openai[2])["error"]["message"] == "nobody"
    assert json.loads(anthropic[2])["type"] == "error"


def test_retry_after_stands_on_every_429_and_503_and_on_nothing_else() -> None:
    _, busy, _ = render(LimitReached("slow", retry_after=7), call())
    _, ended, _ = render(WrapError("ended by an operator", status=503), call())
    _, unstored, _ = render_own(StoreUnavailable("the disk is full"))
    _, forbidden, _ = render(Forbidden("no", retry_after=7), call())

    assert dict(busy)[b"Retry-After"] == b"7"
    assert dict(ended)[b"Retry-After"] == dict(unstored)[b"Retry-After"] == b"1"
    assert b"Retry-After" not in dict(forbidden)


def test_browsers_may_read_our_errors_on_stock_routes() -> None:
    one = call()
    one.cors = [(b"Access-Control-Allow-Origin", b"http://localhost")]

    _, headers, _ = render(NoUpstream("nobody"), one)

    assert headers[-1] == (b"Access-Control-Allow-Origin", b"http://localhost")


def test_our_routes_say_error_code_and_details() -> None:
    status, headers, body = render_own(Forbidden("no\n<b>", details={"setting": "X"}))

    assert status == 403
    assert (b"Content-Type", b"application/json") in headers
    assert json.loads(body) == {
        "error": "no\n<b>",
        "code": "FORBIDDEN",
        "details": {"setting": "X"},
    }


def test_missing_credential_is_asked_for() -> None:
    status, headers, _ = render_own(Unauthorized("who?"))

    assert status == 401
    assert dict(headers)[b"WWW-Authenticate"] == b"Bearer"
