import pytest

from ollama_wrap.api.admin_token import ADDRESSES, GUESSES, WINDOW, AdminToken
from ollama_wrap.call import Call
from ollama_wrap.errors import Forbidden, LimitReached, Unauthorized
from tests.fakes.clock import FakeClock
from tests.unit.api.calls import call

TOKEN = "correct horse battery"


def bearing(token: str, client: str = "192.0.2.1", scheme: str = "Bearer") -> Call:
    return call("GET", "/admin/stats", ("Authorization", f"{scheme} {token}"), client=client)


def guess(token: AdminToken, client: str = "192.0.2.1", times: int = GUESSES) -> None:
    for _ in range(times):
        assert not token.valid(bearing("wrong", client))


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_right_token_passes(scheme: str) -> None:
    token = AdminToken(TOKEN, FakeClock())

    token.demand(bearing(TOKEN, scheme=scheme))


@pytest.mark.parametrize("length", range(1, len(TOKEN)))
def test_no_prefix_of_the_token_passes(length: int) -> None:
    token = AdminToken(TOKEN, FakeClock())

    with pytest.raises(Unauthorized):
        token.demand(bearing(TOKEN[:length]))


@pytest.mark.parametrize(
    "header", [[], [("Authorization", "Bearer ")], [("Authorization", TOKEN)],
               [("Authorization", f"Basic {TOKEN}")], [("Cookie", f"token={TOKEN}")]],
)  # fmt: skip
def test_request_without_a_bearer_is_unauthorized_and_no_guess(
    header: list[tuple[str, str]],
) -> None:
    token = AdminToken(TOKEN, FakeClock())

    for _ in range(GUESSES + 1):
        with pytest.raises(Unauthorized):
            token.demand(call("GET", "/admin/stats", *header))


@pytest.mark.parametrize("text, why", [(None, "not set"), ("", "not set"), ("short", "too short")])
def test_token_that_guards_nothing_keeps_everything_closed(text: str | None, why: str) -> None:
    token = AdminToken(text, FakeClock())

    with pytest.raises(Forbidden, match=why) as caught:
        token.demand(bearing(text or ""), closed="ADMIN_DISABLED")

    assert caught.value.code == "ADMIN_DISABLED"
    assert "OLLAMA_ADMIN_TOKEN" in caught.value.text
    assert not token.ours((text or "").encode())


def test_address_may_guess_ten_times_a_minute() -> None:
    clock = FakeClock()
    token = AdminToken(TOKEN, clock)
    clock.advance(100)
    guess(token)
    clock.advance(20)

    with pytest.raises(LimitReached) as caught:
        token.valid(bearing(TOKEN))

    assert caught.value.retry_after == 40
    assert token.valid(bearing(TOKEN, "192.0.2.2"))
    clock.advance(WINDOW - 20)
    assert token.valid(bearing(TOKEN))


def test_network_of_ipv6_counts_as_one_address() -> None:
    token = AdminToken(TOKEN, FakeClock())
    guess(token, "2001:db8::1")

    with pytest.raises(LimitReached):
        token.valid(bearing(TOKEN, "2001:db8::2"))
    assert token.valid(bearing(TOKEN, "2001:db8:0:1::2"))


def test_odd_address_is_counted_as_it_is_written() -> None:
    token = AdminToken(TOKEN, FakeClock())
    guess(token, "a:b")

    with pytest.raises(LimitReached):
        token.valid(bearing(TOKEN, "a:b"))


def test_number_of_counted_addresses_is_bounded() -> None:
    token = AdminToken(TOKEN, FakeClock())
    guess(token, "first")

    for number in range(ADDRESSES):
        guess(token, f"address-{number}", times=1)

    assert token.valid(bearing(TOKEN, "first"))


@pytest.mark.parametrize("value", [TOKEN.encode(), f"Bearer {TOKEN}".encode()])
def test_token_is_known_for_ours_wherever_it_stands(value: bytes) -> None:
    token = AdminToken(TOKEN, FakeClock())

    assert token.ours(value)
    assert not token.ours(b"Bearer ollama")
