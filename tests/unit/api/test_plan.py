"""What is worked out from a head once, and when it is worked out again."""

import pytest

from ollama_wrap.api.guards import ASK, FRESH, Door, Rules
from ollama_wrap.api.plan import Plan, Planner, sent_id
from ollama_wrap.call import Call, Kind, Priority
from ollama_wrap.wire.base import Pace
from tests.fakes.clock import FakeClock
from tests.fakes.exchange import FakeExchange, Written
from tests.unit.api.calls import Stock

SITE = b"https://app.example"


class Desk:
    """A Planner with all it needs; each request has a head of its own unless it is given."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        rules = Rules(listeners=("127.0.0.1:11434",))
        self.door = Door(rules, Stock(SITE), self.clock)
        self.planner = Planner(self.door, "tower", b"nonce")

    def plan(self, exchange: FakeExchange) -> Plan:
        return self.planner.plan(exchange.real, self.clock.monotonic())


def wish(*fields: Written, target: str = "/api/chat") -> Call:
    return Desk().plan(FakeExchange("POST", target, *fields)).call


# ---------------------------------------------------------------- what is kept


async def test_same_head_from_the_same_client_has_the_same_plan() -> None:
    desk, exchange = Desk(), FakeExchange("POST", "/api/chat")

    first = desk.plan(exchange)

    assert desk.plan(exchange) is first
    assert (first.call.kind, first.call.operation) == (Kind.INFER, "chat")


@pytest.mark.parametrize(
    "client, listener", [("10.0.0.9", "127.0.0.1:11434"), ("127.0.0.1", "10.0.0.1:11434")]
)
async def test_another_client_or_listener_has_another_plan(client: str, listener: str) -> None:
    desk, exchange = Desk(), FakeExchange()
    stranger = FakeExchange(client=client, listener=listener)
    stranger.notes = exchange.notes

    first, second = desk.plan(exchange), desk.plan(stranger)

    assert second is not first
    assert second.call.client == client
    assert desk.plan(exchange) is first


async def test_door_is_asked_anew_when_the_plan_is_no_longer_fresh() -> None:
    desk, exchange = Desk(), FakeExchange()
    first = desk.plan(exchange)

    desk.clock.advance(FRESH - 1)
    assert desk.plan(exchange) is first
    desk.clock.advance(1)

    assert desk.plan(exchange) is not first


async def test_origin_that_must_be_asked_is_not_kept() -> None:
    desk = Desk()
    exchange = FakeExchange("POST", "/api/chat", ("Origin", SITE.decode()))

    plan = desk.plan(exchange)

    assert plan.refusal is ASK
    assert exchange.notes == {}
    await desk.door.origin(plan.call, exchange.ends[1])
    assert desk.plan(exchange).refusal is None
    assert len(exchange.notes) == 1


async def test_plans_of_one_head_are_bounded_however_many_clients_send_it() -> None:
    desk, exchange = Desk(), FakeExchange()

    for number in range(1000):
        exchange.ends = (f"10.0.{number // 250}.{number % 250}", exchange.ends[1])
        desk.plan(exchange)

    assert 1 <= len(exchange.notes) <= 64


async def test_refusal_is_a_plan_too() -> None:
    exchange = FakeExchange()
    exchange.headers[0] = (b"Host", b"attacker.example")
    exchange.fields = {**exchange.fields, b"host": b"attacker.example"}

    refusal = Desk().plan(exchange).refusal

    assert refusal is not None
    assert refusal.status == 403


# ---------------------------------------------------------------- what a head says


@pytest.mark.parametrize(
    "method, target, pace",
    [
        ("POST", "/api/chat", Pace.LONG),
        ("POST", "/v1/messages", Pace.LONG),
        ("POST", "/api/pull", Pace.BULK),
        ("POST", f"/api/blobs/sha256:{'0' * 64}", Pace.BULK),
        ("GET", "/api/tags", Pace.BRIEF),
        ("GET", "/nope", Pace.BRIEF),
    ],
)
async def test_pace_follows_from_the_kind(method: str, target: str, pace: Pace) -> None:
    assert Desk().plan(FakeExchange(method, target)).pace is pace


@pytest.mark.parametrize(
    "target, path, sent",
    [
        ("/ollama/api/tags", "/api/tags", b"/api/tags"),
        ("/ollama/api/tags?a=1", "/api/tags", b"/api/tags?a=1"),
        ("/ollama", "/", b"/"),
        ("/ollama/", "/", b"/"),
        ("/ollama?a=1", "/", b"/?a=1"),
        ("/ollama/ollama/api/tags", "/ollama/api/tags", b"/ollama/api/tags"),
    ],
)
async def test_prefix_is_cut_once(target: str, path: str, sent: bytes) -> None:
    call = Desk().plan(FakeExchange("GET", target)).call

    assert (call.path, call.target, call.prefixed) == (path, sent, True)


@pytest.mark.parametrize("target", ["/ollamas/api/tags", "/api/ollama/tags", "/OLLAMA/api/tags"])
async def test_what_only_looks_like_the_prefix_stays(target: str) -> None:
    call = Desk().plan(FakeExchange("GET", target)).call

    assert (call.target, call.prefixed) == (target.encode(), False)


@pytest.mark.parametrize(
    "value, expected",
    [("abc-1", "abc-1"), ("x" * 128, "x" * 128), ("x" * 129, ""), ("", ""), ("a b", ""),
     ("a\xe9", ""), ("a\tb", "")],
)  # fmt: skip
def test_id_of_a_client_is_repeated_if_it_is_sane(value: str, expected: str) -> None:
    assert sent_id({b"x-request-id": value.encode("latin-1")}) == expected


def test_no_id_was_sent_at_all() -> None:
    assert sent_id({}) == ""


@pytest.mark.parametrize(
    "name, value, forced",
    [
        ("X-Ollama-Force-Local", "true", "local"),
        ("X-Ollama-Force-Local", "TRUE", "local"),
        ("X-Ollama-Force-Local", "1", None),
        ("X-Ollama-Force-Distributed", "true", "remote"),
        ("X-Ollama-Force-Distributed", " r1 ", "r1"),
        ("X-Ollama-Force-Distributed", "", None),
    ],
)
async def test_side_or_node_that_is_forced(name: str, value: str, forced: str | None) -> None:
    assert wish((name, value)).forced == forced


async def test_both_sides_forced_is_the_local_one() -> None:
    both = ("X-Ollama-Force-Distributed", "r1"), ("X-Ollama-Force-Local", "true")

    assert wish(*both).forced == "local"


@pytest.mark.parametrize("value, side", [("local", "local"), ("Remote", "remote"), ("auto", None)])
async def test_side_that_is_wished_for(value: str, side: str | None) -> None:
    assert wish(("X-Ollama-Route", value)).side == side


async def test_targets_are_a_list_of_names() -> None:
    assert wish(("X-Ollama-Target-Nodes", "r1, r2,,")).targets == ("r1", "r2")


async def test_other_wishes_are_read() -> None:
    call = wish(
        ("X-Dry-Run", "true"),
        ("Cache-Control", "max-age=0, no-store"),
        ("X-Ollama-Priority", "low"),
        ("X-Ollama-Hop", "1"),
    )

    assert (call.dry_run, call.no_store, call.priority, call.hop) == (
        True,
        True,
        Priority.LOW,
        True,
    )


async def test_nobody_without_a_key_is_first() -> None:
    assert wish(("X-Ollama-Priority", "high")).priority is Priority.MEDIUM


@pytest.mark.parametrize(
    "value, seconds", [("1500", 1.5), ("0", 0.0), ("-5", 0.0), ("soon", None), ("", None)]
)
async def test_deadline_is_read_in_milliseconds(value: str, seconds: float | None) -> None:
    plan = Desk().plan(FakeExchange("POST", "/api/chat", ("X-Ollama-Timeout-Ms", value)))

    assert plan.seconds == seconds


# ---------------------------------------------------------------- loops


@pytest.mark.parametrize("via", ["1.1 tower", "1.1 r1, 1.1 tower", "1.1 tower, 1.1 r1"])
async def test_own_id_in_via_is_a_loop(via: str) -> None:
    assert Desk().plan(FakeExchange("GET", "/api/tags", ("Via", via))).loop is not None


@pytest.mark.parametrize("via", ["1.1 r1", "1.1 tower2", "tower", "1.1 r1 (tower)", ""])
async def test_other_ids_in_via_are_none(via: str) -> None:
    assert Desk().plan(FakeExchange("GET", "/api/tags", ("Via", via))).loop is None


async def test_second_via_field_counts() -> None:
    vias = ("Via", "1.1 r1"), ("Via", "1.1 tower")

    assert Desk().plan(FakeExchange("GET", "/api/tags", *vias)).loop is not None


@pytest.mark.parametrize("nonce, loops", [("nonce", True), ("other", False)])
async def test_own_question_that_comes_back_is_a_loop(nonce: str, loops: bool) -> None:
    plan = Desk().plan(FakeExchange("GET", "/api/version", ("X-Ollama-Wrap-Nonce", nonce)))

    assert (plan.loop is not None) is loops


# ---------------------------------------------------------------- what is usual


def usual(*fields: Written, target: str = "/api/chat") -> bool:
    return Desk().plan(FakeExchange("POST", target, *fields)).usual


async def test_inference_is_usual_and_what_waits_for_something_is_not() -> None:
    assert usual()
    assert usual(("X-Ollama-Route", "remote"), ("X-Ollama-Priority", "low"))
    assert not usual(target="/api/pull")


@pytest.mark.parametrize(
    "field",
    [
        ("X-Ollama-Timeout-Ms", "0"),
        ("X-Ollama-Timeout-Ms", "9000"),
        ("X-Dry-Run", "true"),
        ("X-Ollama-Target-Nodes", "r1"),
        ("X-Ollama-Force-Local", "true"),
        ("X-Ollama-Force-Distributed", "r1"),
        ("X-Ollama-Hop", "1"),
        ("Via", "1.1 tower"),
        ("Expect", "100-continue"),
    ],
)
async def test_call_with_a_wish_is_not_usual(field: Written) -> None:
    assert not usual(field)


async def test_deadline_that_no_number_holds_is_a_long_one() -> None:
    plan = Desk().plan(FakeExchange("POST", "/api/chat", ("X-Ollama-Timeout-Ms", "9" * 4000)))

    assert plan.seconds == 1_000_000
