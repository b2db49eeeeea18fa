"""Who waits before the edge until it is known that our Ollama is not ourselves."""

from collections.abc import Callable

from ollama_wrap.api.plan import NONCE
from ollama_wrap.cli.gate import Gate
from ollama_wrap.wire.base import Exchange
from ollama_wrap.wire.guard import Guard, Limits
from ollama_wrap.wire.inbound import protocol
from tests.fakes.exchange import FakeExchange

NAME = NONCE.decode()


class Edge:
    """Takes what is not ours, and begins it when it is ready."""

    def __init__(self) -> None:
        self.begun: list[Exchange] = []

    def take(self, exchange: Exchange) -> bool:
        if exchange.target == b"/health":
            return False
        exchange.ready = self.begun.append
        return True


class Waiting(FakeExchange):
    """Is not ready by itself: its connection would say when."""

    ready: Callable[[Exchange], None] | None = None


def asked(target: str = "/api/tags", *fields: tuple[str, str]) -> Exchange:
    return Waiting("GET", target, *fields).real


async def test_calls_wait_until_it_opens_and_go_on_in_their_order() -> None:
    edge = Edge()
    gate = Gate(edge.take, "boot")
    one, two = asked(), asked()

    taken = gate.take(one), gate.take(two)
    waiting = one.ready, two.ready, list(edge.begun)
    gate.open(protocol(gate.take, Guard(Limits())))

    assert taken == (True, True)
    assert waiting == (None, None, [])
    assert edge.begun == [one, two]


async def test_our_own_question_passes_and_that_of_another_waits() -> None:
    gate = Gate(Edge().take, "boot")
    ours, theirs = asked("/api/version", (NAME, "boot")), asked("/", (NAME, "other"))

    gate.take(ours)
    gate.take(theirs)

    assert ours.ready is not None
    assert theirs.ready is None


async def test_paths_of_our_own_are_not_held_back() -> None:
    gate = Gate(Edge().take, "boot")

    assert not gate.take(asked("/health"))


async def test_nobody_stands_between_once_it_is_open() -> None:
    edge = Edge()
    gate = Gate(edge.take, "boot")
    made = protocol(gate.take, Guard(Limits()))

    gate.open(made)

    assert made.take == edge.take


async def test_call_whose_client_left_meanwhile_is_not_begun() -> None:
    edge = Edge()
    gate = Gate(edge.take, "boot")
    gone, there = asked(), asked()
    gate.take(gone)
    gate.take(there)

    gone.over = True
    gate.open(protocol(gate.take, Guard(Limits())))

    assert edge.begun == [there]
