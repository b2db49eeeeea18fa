import pytest

from ollama_wrap.api.origins import HOLDS, KEPT, UNHEARD, Origins, Verdict, verdict
from tests.fakes.clock import FakeClock
from tests.unit.api.calls import Stock

SITE = b"https://app.example"
PREFLIGHT = (
    (b"Access-Control-Allow-Methods", b"GET"),
    (b"Access-Control-Allow-Origin", SITE),
)


def origins(
    stock: Stock, *extra: str, clock: FakeClock | None = None, loopback: bool = True
) -> Origins:
    return Origins(extra, stock, clock or FakeClock(), loopback=loopback)


@pytest.mark.parametrize(
    "origin",
    [b"http://localhost", b"https://localhost:3000", b"http://127.0.0.1", b"http://0.0.0.0:1",
     b"http://localhost:x.evil.example", b"app://x", b"file://", b"tauri://localhost",
     b"vscode-webview://a", b"vscode-file://a"],
)  # fmt: skip
def test_stock_s_own_list_is_allowed_unasked(origin: bytes) -> None:
    leave = origins(Stock()).judge(origin)

    assert leave is not None
    assert leave.allowed
    assert leave.stock_too
    assert leave.simple == ((b"Access-Control-Allow-Origin", origin), (b"Vary", b"Origin"))


@pytest.mark.parametrize(
    "origin",
    [b"null", b"http://[::1]:3", b"HTTP://localhost", b"http://localhost.evil.example",
     b"chrome-extension://x", b"http://box.lan", b"https://evil.example"],
)  # fmt: skip
async def test_what_no_list_has_is_refused(origin: bytes) -> None:
    stock = Stock()
    judge = origins(stock, "https://other.example")

    assert judge.judge(origin) is None
    assert not (await judge.ask(origin)).allowed
    assert stock.asked == [origin]


async def test_list_set_on_the_local_ollama_alone_counts_for_a_minute() -> None:
    clock = FakeClock()
    judge = origins(Stock(SITE), clock=clock)

    leave = await judge.ask(SITE)

    assert leave.allowed
    assert leave.stock_too
    assert leave.preflight == PREFLIGHT
    assert leave.simple == ((b"Access-Control-Allow-Origin", SITE), (b"Vary", b"Origin"))
    assert judge.judge(SITE) is leave
    clock.advance(HOLDS)
    assert judge.judge(SITE) is None


async def test_origin_that_only_we_allow_is_not_shown_to_the_local_ollama() -> None:
    leave = await origins(Stock(), "https://App.example").ask(SITE)

    assert leave.allowed
    assert not leave.stock_too


@pytest.mark.parametrize(
    "extra, origin",
    [("chrome-extension://*", b"chrome-extension://abc"), ("*.lan", b"http://box.lan"),
     ("http://*.example", b"http://a.example"), ("*", b"null")],
)  # fmt: skip
def test_entries_may_have_one_star(extra: str, origin: bytes) -> None:
    leave = origins(Stock(), extra, loopback=False).judge(origin)

    assert leave is not None
    assert leave.allowed


def test_allowing_everyone_is_said_with_a_star() -> None:
    leave = origins(Stock(), "*", loopback=False).judge(b"null")

    assert leave is not None
    assert leave.simple == ((b"Access-Control-Allow-Origin", b"*"),)
    assert b"Vary" not in dict(leave.preflight)


async def test_last_word_holds_while_the_local_ollama_is_away() -> None:
    stock, clock = Stock(SITE), FakeClock()
    judge = origins(stock, clock=clock)
    await judge.ask(SITE)
    stock.away = True
    clock.advance(HOLDS)

    leave = await judge.ask(SITE)

    assert leave.allowed


async def test_unheard_origin_is_asked_again_soon() -> None:
    stock, clock = Stock(SITE), FakeClock()
    judge = origins(stock, clock=clock)
    stock.away = True

    leave = await judge.ask(SITE)

    assert not leave.allowed
    assert judge.judge(SITE) is leave
    clock.advance(UNHEARD)
    assert judge.judge(SITE) is None
    stock.away = False
    assert (await judge.ask(SITE)).allowed


async def test_our_own_list_holds_while_the_local_ollama_is_away() -> None:
    stock = Stock()
    stock.away = True

    leave = await origins(stock, "https://app.example").ask(SITE)

    assert leave.allowed
    assert not leave.stock_too


async def test_number_of_kept_verdicts_is_bounded() -> None:
    judge = origins(Stock())

    for number in range(KEPT + 1):
        await judge.ask(b"https://%d.example" % number)

    assert judge.judge(b"https://0.example") is None
    assert judge.judge(b"https://1.example") is not None
    assert judge.judge(b"https://%d.example" % KEPT) is not None


def test_verdict_is_read_from_the_answer_to_a_preflight() -> None:
    answer = [(b"Allow", b"HEAD, GET"), *PREFLIGHT, (b"Date", b"today")]

    assert verdict(204, answer) == Verdict(allowed=True, headers=PREFLIGHT)


@pytest.mark.parametrize("status", [403, 405, 204])
def test_answer_without_cors_headers_allows_nothing(status: int) -> None:
    assert verdict(status, [(b"Vary", b"Origin")]) == Verdict(allowed=False)
