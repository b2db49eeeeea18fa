import pytest

from ollama_wrap.api.admin_token import AdminToken
from ollama_wrap.api.guards import Door, Rules
from ollama_wrap.api.origins import Verdict
from ollama_wrap.api.scopes import Scopes
from ollama_wrap.call import Call
from ollama_wrap.errors import CallerError, Forbidden, Unauthorized
from tests.fakes.clock import FakeClock
from tests.unit.api.calls import call

TOKEN = "correct horse battery"
BEARER = ("Authorization", f"Bearer {TOKEN}")
MARKS = [
    ("Forwarded", "for=1.2.3.4"),
    ("X-Forwarded-For", "127.0.0.1"),
    ("x-forwarded-proto", "https"),
    ("X-Real-IP", "127.0.0.1"),
    ("CF-Connecting-IP", "127.0.0.1"),
]
BROWSER = ("Origin", "http://localhost:11434")
VIA = ("Via", "1.1 box")


async def nobody(origin: bytes) -> Verdict:
    raise AssertionError(origin)


def scopes(token: str | None = TOKEN, protect: str = "off", *, tokens: bool = False) -> Scopes:
    return Scopes(AdminToken(token, FakeClock()), protect=protect, tokens=tokens)


def asked(*headers: tuple[str, str], client: str = "127.0.0.1", method: str = "GET") -> Call:
    """A call on a route of ours that has come through the door."""
    made = call(method, "/api/distributed/requests", *headers, client=client)
    assert Door(Rules(), nobody, FakeClock()).own(made, "127.0.0.1:11434") is None
    return made


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "10.0.0.9", "192.168.1.4", "fd00::9"])
def test_near_callers_may_read(client: str) -> None:
    scopes(None).read(asked(client=client))


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("client", ["127.0.0.1", "10.0.0.9"])
def test_reading_behind_an_unknown_proxy_takes_the_token(
    mark: tuple[str, str], client: str
) -> None:
    with pytest.raises(Unauthorized):
        scopes().read(asked(mark, client=client))
    scopes().read(asked(mark, BEARER, client=client))


def test_sidecars_on_one_network_may_read_each_other() -> None:
    scopes(None).read(asked(VIA, client="10.0.0.9"))


def test_reading_from_far_takes_the_token() -> None:
    with pytest.raises(Unauthorized):
        scopes().read(asked(client="8.8.8.8"))
    with pytest.raises(Forbidden, match="OLLAMA_ADMIN_TOKEN"):
        scopes(None).read(asked(client="8.8.8.8"))
    scopes().read(asked(BEARER, client="8.8.8.8"))


def test_protecting_all_closes_reading_to_the_network() -> None:
    with pytest.raises(Unauthorized):
        scopes(protect="all").read(asked(client="10.0.0.9"))
    scopes(protect="all").read(asked(BEARER, client="10.0.0.9"))
    scopes(protect="all").read(asked())


def test_running_requests_are_shown_to_loopback_callers_and_the_token() -> None:
    scopes().requests(asked())
    scopes().requests(asked(BEARER, client="10.0.0.9"))
    with pytest.raises(Unauthorized):
        scopes().requests(asked(client="10.0.0.9"))


@pytest.mark.parametrize("mark", [*MARKS, BROWSER, VIA])
def test_page_or_proxy_on_this_machine_is_no_loopback_caller(mark: tuple[str, str]) -> None:
    with pytest.raises(Unauthorized):
        scopes().requests(asked(mark))
    with pytest.raises(Forbidden):
        scopes(None).write(asked(mark, method="DELETE"))


def test_changes_take_the_token_where_one_is_configured() -> None:
    with pytest.raises(Unauthorized):
        scopes().write(asked(method="DELETE"))
    scopes().write(asked(BEARER, client="8.8.8.8", method="DELETE"))


def test_changes_are_open_to_loopback_callers_where_no_token_is_configured() -> None:
    scopes(None).write(asked(method="DELETE"))
    with pytest.raises(Forbidden, match="OLLAMA_ADMIN_TOKEN"):
        scopes(None).write(asked(client="10.0.0.9", method="DELETE"))


def test_token_too_short_or_of_another_kind_is_no_open_default() -> None:
    with pytest.raises(Forbidden, match="too short"):
        scopes("short").write(asked(method="DELETE"))
    with pytest.raises(Forbidden, match="not set"):
        scopes(None, tokens=True).write(asked(method="DELETE"))


@pytest.mark.parametrize(
    "kind",
    ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "Text/Plain"],
)
def test_html_forms_change_nothing(kind: str) -> None:
    with pytest.raises(CallerError) as caught:
        scopes(None).write(asked(("Content-Type", kind), method="POST"))

    assert caught.value.status == 415


def test_json_may_change() -> None:
    scopes(None).write(asked(("Content-Type", "application/json"), method="POST"))


def test_admin_routes_take_the_token_from_everybody() -> None:
    with pytest.raises(Unauthorized):
        scopes().admin(asked())
    scopes().admin(asked(BEARER))


@pytest.mark.parametrize("token", [None, "", "short"])
def test_admin_routes_are_closed_without_a_usable_token(token: str | None) -> None:
    with pytest.raises(Forbidden) as caught:
        scopes(token).admin(asked(("Authorization", f"Bearer {token}")))

    assert caught.value.code == "ADMIN_DISABLED"
