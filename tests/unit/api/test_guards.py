import json
from ipaddress import ip_network

import pytest

from ollama_wrap.api.guards import ASK, FRESH, KEPT, Door, Refusal, Rules, preflight
from ollama_wrap.call import Call
from tests.fakes.clock import FakeClock
from tests.unit.api.calls import Stock, call

LOOPBACK = "127.0.0.1:11434"
WIDE = "192.168.1.5:11434"
SITE = "https://app.example"
TOKEN = "correct horse battery"
MACHINE = frozenset({"tower", "tower.lan", "192.168.1.5"})
SIMPLE = [
    (b"Access-Control-Allow-Origin", b"http://localhost:3000"),
    (b"Vary", b"Origin"),
]
# As stock answered it, headers in its order.
PREFLIGHT = {
    "Access-Control-Allow-Headers": "Authorization,Content-Type,User-Agent,Accept,"
    "X-Requested-With,Openai-Beta,X-Stainless-Arch,X-Stainless-Async,"
    "X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
    "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,"
    "X-Stainless-Retry-Count,X-Stainless-Runtime,X-Stainless-Runtime-Version,"
    "X-Stainless-Timeout",
    "Access-Control-Allow-Methods": "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS",
    "Access-Control-Allow-Origin": "http://localhost:3000",
    "Access-Control-Max-Age": "43200",
    "Allow": "POST",
}


def door(stock: Stock | None = None, *, clock: FakeClock | None = None, **rules: object) -> Door:
    given = {
        "listeners": (LOOPBACK, "0.0.0.0:8080", WIDE),
        "hostname": "tower",
        "machine": lambda: MACHINE,
        **rules,
    }
    return Door(Rules(**given), stock or Stock(), clock or FakeClock())  # type: ignore[arg-type]


def from_page(
    origin: str, *, method: str = "POST", host: str = "localhost:11434", path: str = "/api/chat"
) -> Call:
    return call(method, path, ("Origin", origin), host=host)


# what a transparent sidecar does, by where it and the local Ollama listen


@pytest.mark.parametrize("host", ["localhost:11434", "127.0.0.1", "tower", "a.internal"])
def test_loopback_before_loopback_keeps_what_stock_accepts(host: str) -> None:
    one = call(host=host)

    assert door().stock(one, LOOPBACK) is None
    assert one.keep_host
    assert one.cors == []


@pytest.mark.parametrize("listener", [LOOPBACK, "127.0.0.1", "", "somewhere"])
def test_rebinding_is_refused_as_stock_refuses_it(listener: str) -> None:
    one = call(host="attacker.example")

    assert door(listeners=(LOOPBACK,)).stock(one, listener) == Refusal(403, (), b"")


def test_refusal_says_which_methods_there_are_as_stock_does() -> None:
    refused = door().stock(call("GET", "/api/chat", host="attacker.example"), LOOPBACK)
    root = door().stock(call("POST", "/", host="attacker.example"), LOOPBACK)

    assert refused == Refusal(403, ((b"Allow", b"POST"),))
    assert root == Refusal(403, ((b"Allow", b"HEAD, GET"),))


@pytest.mark.parametrize("listener", [WIDE, "127.0.0.1:8080"])
def test_wide_listener_takes_any_host_and_hides_it_from_a_loopback_stock(listener: str) -> None:
    one = call(host="box.example")

    assert door().stock(one, listener) is None
    assert not one.keep_host


def test_wide_listener_keeps_a_host_that_a_loopback_stock_accepts() -> None:
    one = call(host="192.168.1.5:11434")

    assert door().stock(one, WIDE) is None
    assert one.keep_host


def test_same_origin_page_behind_a_wide_listener_is_let_in_without_cors() -> None:
    one = from_page("http://box.example:11434", host="box.example:11434")

    assert door().stock(one, WIDE) is None
    assert not one.keep_host
    assert one.cors == []


def test_local_ollama_elsewhere_sees_neither_host_nor_origin() -> None:
    one = from_page("http://localhost:3000")

    assert door(local_loopback=False).stock(one, LOOPBACK) is None
    assert not one.keep_host
    assert one.cors == SIMPLE


def test_request_without_a_host_comes_in_under_the_node_s_own() -> None:
    one = call(host=None)

    assert door().stock(one, LOOPBACK) is None
    assert not one.keep_host


# origins


def test_same_origin_page_needs_no_leave_and_gets_no_headers() -> None:
    one = from_page("https://localhost:11434")

    assert door().stock(one, LOOPBACK) is None
    assert one.keep_host
    assert one.cors == []


def test_allowed_origin_is_kept_and_noted_for_our_own_answers() -> None:
    one = from_page("http://localhost:3000")

    assert door().stock(one, LOOPBACK) is None
    assert one.keep_host
    assert one.cors == SIMPLE


def test_allowed_origin_does_not_open_the_door_to_a_foreign_host() -> None:
    refused = door().stock(from_page("http://localhost:3000", host="attacker.example"), LOOPBACK)

    assert refused == Refusal(403, tuple(SIMPLE))


async def test_foreign_origin_is_refused_once_the_local_ollama_has_been_asked() -> None:
    stock = Stock()
    guard = door(stock)
    one = from_page("https://evil.example")

    assert guard.stock(one, LOOPBACK) is ASK
    assert await guard.origin(one, LOOPBACK) == Refusal(403)
    assert guard.stock(from_page("https://evil.example"), LOOPBACK) == Refusal(403)
    assert stock.asked == [b"https://evil.example"]


async def test_origin_that_the_local_ollama_allows_comes_in_as_it_is() -> None:
    guard = door(Stock(SITE.encode()))
    one = from_page(SITE)

    assert guard.stock(one, LOOPBACK) is ASK
    assert await guard.origin(one, LOOPBACK) is None
    assert one.keep_host
    assert one.cors == [(b"Access-Control-Allow-Origin", SITE.encode()), (b"Vary", b"Origin")]


async def test_origin_that_only_our_setting_allows_is_hidden_from_the_local_ollama() -> None:
    guard = door(origins=(SITE,))
    one = from_page(SITE)

    assert guard.stock(one, LOOPBACK) is ASK
    assert await guard.origin(one, LOOPBACK) is None
    assert not one.keep_host
    assert one.cors[0] == (b"Access-Control-Allow-Origin", SITE.encode())


@pytest.mark.parametrize("host", ["localhost:11434", "attacker.example"])
def test_preflight_goes_to_the_local_ollama_whatever_its_host(host: str) -> None:
    one = from_page("http://localhost:3000", method="OPTIONS", host=host)

    assert door().stock(one, LOOPBACK) is None
    assert one.keep_host


def test_preflight_that_the_local_ollama_may_not_see_is_answered_here() -> None:
    one = from_page("http://localhost:3000", method="OPTIONS")

    answer = door(local_loopback=False).stock(one, LOOPBACK)

    assert answer is not None
    assert answer.status == 204
    told = [(name.decode(), value.decode()) for name, value in answer.headers]
    assert told[:5] == list(PREFLIGHT.items())
    assert told[5:] == [
        ("Vary", "Origin"),
        ("Vary", "Access-Control-Request-Method"),
        ("Vary", "Access-Control-Request-Headers"),
    ]
    assert preflight(one) == answer


def test_options_without_an_origin_is_stock_s_to_answer() -> None:
    one = call("OPTIONS", "/api/chat")

    assert door().stock(one, LOOPBACK) is None
    assert one.keep_host


def test_addresses_of_this_machine_are_looked_up_again() -> None:
    machine: set[str] = set()
    clock = FakeClock()
    guard = door(clock=clock, machine=lambda: frozenset(machine))

    assert guard.stock(call(host="203.0.113.7"), LOOPBACK) is not None
    machine.add("203.0.113.7")
    clock.advance(FRESH)
    assert guard.stock(call(host="203.0.113.7"), LOOPBACK) is None


def test_number_of_kept_hosts_is_bounded() -> None:
    lookups = 0

    def machine() -> frozenset[str]:
        nonlocal lookups
        lookups += 1
        return MACHINE

    guard = door(machine=machine)
    for number in [*range(KEPT), 0, 1, 0, 1]:
        guard.stock(call(host=f"host-{number}.example"), LOOPBACK)

    assert lookups == KEPT + 2


@pytest.mark.parametrize("client", ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"])
def test_caller_on_loopback_is_one(client: str) -> None:
    one = call(client=client)

    door().stock(one, LOOPBACK)

    assert one.loopback


@pytest.mark.parametrize(
    "header",
    [("Origin", "http://localhost:11434"), ("VIA", "1.1 box"), ("Forwarded", "for=::1"),
     ("x-forwarded-host", "a"), ("X-Forwarded-For", "127.0.0.1"), ("X-Real-Ip", "127.0.0.1"),
     ("cf-connecting-ip", "127.0.0.1")],
)  # fmt: skip
def test_page_or_proxy_on_loopback_is_no_loopback_caller(header: tuple[str, str]) -> None:
    one = call("GET", "/api/tags", header)

    door().stock(one, LOOPBACK)

    assert not one.loopback


@pytest.mark.parametrize("client", ["192.168.1.4", "", "10.127.0.0"])
def test_caller_elsewhere_is_no_loopback_caller(client: str) -> None:
    one = call(client=client)

    door().stock(one, WIDE)

    assert not one.loopback


@pytest.mark.parametrize(
    "client, told, believed",
    [
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["127.0.0.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9:55"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::1]:55"], "2001:db8::1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.9.1", ["127.0.0.1"], "10.0.9.1"),
        ("127.0.0.1", ["127.0.0.1"], "127.0.0.1"),
        ("", ["203.0.113.9"], ""),
    ],
)
def test_forwarded_address_is_believed_from_listed_proxies(
    client: str, told: list[str], believed: str
) -> None:
    one = call("GET", "/api/tags", *(("X-Forwarded-For", text) for text in told), client=client)

    door(trusted_proxies=(ip_network("10.0.0.0/24"),)).stock(one, WIDE)

    assert one.client == believed
    assert one.caller == believed
    assert not one.loopback


def test_header_with_underscores_is_no_forwarded_address() -> None:
    one = call("GET", "/api/tags", ("X_Forwarded_For", "203.0.113.9"), client="10.0.0.1")

    door(trusted_proxies=(ip_network("10.0.0.0/24"),)).stock(one, WIDE)

    assert one.client == "10.0.0.1"


@pytest.mark.parametrize("name", ["Authorization", "x-api-key"])
def test_credentials_tell_callers_apart_without_being_shown(name: str) -> None:
    guard = door()
    calls = [call("GET", "/api/tags", (name, text)) for text in ("secret-a", "secret-a", "b")]

    for one in calls:
        guard.stock(one, LOOPBACK)

    first, again, other = (one.caller for one in calls)
    assert first == again != other
    assert "secret" not in first


# our own routes


def own(
    host: str | None,
    *headers: tuple[str, str],
    path: str = "/api/distributed/status",
    **rules: object,
) -> Refusal | None:
    return door(**rules).own(call("GET", path, *headers, host=host), WIDE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1:1", "10.9.8.7", "TOWER.lan", "gate.example:443", "node.example",
     "bound.example", None],
)  # fmt: skip
def test_known_hosts_reach_our_routes(host: str | None) -> None:
    assert (
        own(
            host,
            allowed_hosts=frozenset({"Gate.example"}),
            node_hosts=frozenset({"node.example"}),
            listeners=("bound.example:11434",),
        )
        is None
    )


def test_foreign_host_is_refused_by_a_named_setting_on_every_listener() -> None:
    refused = own("attacker.example:80", ("Origin", "http://localhost"))

    assert refused is not None
    assert refused.status == 403
    assert dict(refused.headers) == {b"Content-Type": b"application/json"}
    body = json.loads(refused.body)
    assert body["code"] == "FORBIDDEN"
    assert "OLLAMA_WRAP_ALLOWED_HOSTS" in body["error"]
    assert body["details"]["host"] == "attacker.example"


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_is_told_under_any_host(path: str) -> None:
    assert own("attacker.example", path=path) is None


def test_admin_token_opens_any_host_until_it_is_guessed_at() -> None:
    guard = door(admin_token=TOKEN)

    def tried(token: str) -> Refusal | None:
        bearer = ("Authorization", f"Bearer {token}")
        return guard.own(call("GET", "/metrics", bearer, host="box.example"), WIDE)

    assert tried(TOKEN) is None
    statuses = [answer.status for _ in range(11) if (answer := tried("wrong")) is not None]
    assert statuses == [403] * 10 + [429]


def test_admin_token_is_not_shown_by_the_rules() -> None:
    assert TOKEN not in repr(Rules(admin_token=TOKEN))


@pytest.mark.parametrize(
    "client, told, near",
    [
        ("192.168.1.9", None, True),
        ("8.8.8.8", None, False),
        ("10.0.0.1", "192.168.1.9", True),
        ("10.0.0.1", "8.8.8.8", False),
        ("192.168.1.9", "192.168.1.9", False),
    ],
)
def test_nearness_is_that_of_the_caller_behind_listed_proxies(
    client: str, told: str | None, near: bool
) -> None:
    headers = [("X-Forwarded-For", told)] if told else []
    one = call("GET", "/metrics", *headers, client=client)

    assert door(trusted_proxies=(ip_network("10.0.0.0/24"),)).own(one, WIDE) is None

    assert one.near is near


def test_our_routes_never_get_cors_headers() -> None:
    one = call("OPTIONS", "/admin/mode", ("Origin", "http://localhost:3000"))

    assert door().own(one, LOOPBACK) is None
    assert one.cors == []
