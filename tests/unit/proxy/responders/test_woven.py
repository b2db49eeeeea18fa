"""Lines of several nodes, each node scripted."""

import asyncio
from typing import cast

import pytest

from ollama_wrap.errors import ConnectFailed, StreamBroken, UpstreamError
from ollama_wrap.nodes.upstream import Upstream
from ollama_wrap.proxy import outcome
from ollama_wrap.proxy.attempt import Attempt
from ollama_wrap.proxy.responders.woven import LINE, Woven, fault
from ollama_wrap.reply import Reply
from tests.fakes.bodies import Client, Stream
from tests.fakes.clock import settle
from tests.fakes.nodes import upstream

SUCCESS = b'{"status":"success"}\n'


class Node(Stream):
    """An attempt at a node that answers `status`, and then what the test says."""

    def __init__(self, text: str, status: int = 200) -> None:
        super().__init__()
        self.upstream = upstream(text)
        self.outcome = outcome.SERVED
        self.broken: UpstreamError | None = None
        self.status = status
        self.reply: Reply | None = None
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def run(self, *, may_move: object) -> None:
        self.asked.set()
        await self.answers.wait()
        if self.broken is None:
            self.reply = Reply(self.status, [], self)


async def known(_: str) -> None:
    pass


def woven(*nodes: Node) -> tuple[Woven, Client]:
    by_upstream: dict[Upstream, Node] = {one.upstream: one for one in nodes}
    made = Woven(list(by_upstream), lambda one: cast("Attempt", by_upstream[one]), known)
    client = Client()
    return made, client


async def test_nobody_is_asked_before_the_answer_begins() -> None:
    r1 = Node("r1=h1")
    made, client = woven(r1)

    await settle()
    before = r1.asked.is_set()
    made.start(client)
    await settle()

    assert (before, r1.asked.is_set()) == (False, True)


async def test_lines_come_in_the_order_they_arrive_with_their_node() -> None:
    r1, r2 = Node("r1=h1"), Node("r2=h2")
    made, client = woven(r1, r2)
    made.start(client)
    await settle()

    r1.say(b'{"status":"a"}\n{"sta', b'tus":"b"}\n')
    r2.say(b'{"status":"c","n":1.50}\n')
    r1.say(SUCCESS)

    assert client.lines == [
        b'{"status":"a","node":"r1"}\n',
        b'{"status":"b","node":"r1"}\n',
        b'{"status":"c","n":1.50,"node":"r2"}\n',
        b'{"status":"success","node":"r1"}\n',
    ]


async def test_last_line_waits_for_the_last_node() -> None:
    r1, r2 = Node("r1=h1"), Node("r2=h2")
    made, client = woven(r1, r2)
    made.start(client)
    await settle()
    r1.say(SUCCESS)
    r1.end()
    await settle()
    early = list(client.ends)

    r2.say(b'{"status":"success"}')
    r2.end()
    await settle()

    assert early == []
    assert client.lines[-2:] == [b'{"status":"success","node":"r2"}\n', SUCCESS]
    assert client.ends == [None]
    assert r1.told == r2.told == ["close"]


async def test_faults_are_told_together_at_the_end() -> None:
    r1, r2, r3 = Node("r1=h1"), Node("r2=h2"), Node("r3=h3")
    r1.broken = ConnectFailed("h1: refused")
    made, client = woven(r1, r2, r3)
    made.start(client)
    await settle()

    r2.say(b'{"error":"disk full"}\n')
    r3.end(StreamBroken("cut"))
    r2.end()
    await settle()

    assert client.lines == [b'{"error":"r1: h1: refused; r2: disk full; r3: cut"}\n']
    assert client.ends == [None]


@pytest.mark.parametrize(
    "said,text",
    [
        (b'{"status":"pulling"}\n', "it ended without success"),
        (b"no json\n" + b'{"status":"x"}\n', "its answer cannot be read"),
        (b"\n\n", "it ended without success"),
        (b'{"error":"a"}', "a"),
    ],
)
async def test_end_without_success_is_a_fault(said: bytes, text: str) -> None:
    r1 = Node("r1=h1")
    made, client = woven(r1)
    made.start(client)
    await settle()

    r1.say(said)
    r1.end()
    await settle()

    assert client.lines[-1] == f'{{"error":"r1: {text}"}}\n'.encode()


async def test_line_without_end_is_not_collected() -> None:
    r1 = Node("r1=h1")
    made, client = woven(r1)
    made.start(client)
    await settle()

    r1.say(b"x" * (LINE + 1))
    await settle()

    assert client.lines == [b'{"error":"r1: a line of its answer is too long"}\n']
    assert r1.told == ["close"]


async def test_error_of_a_node_is_read_whole() -> None:
    r1 = Node("r1=h1", status=500)
    made, client = woven(r1)
    made.start(client)
    await settle()

    r1.say(b'{"error":', b'"no"}')
    r1.end()
    await settle()

    assert client.lines == [b'{"error":"r1: no"}\n']


async def test_error_that_breaks_off_is_a_fault_too() -> None:
    r1 = Node("r1=h1", status=500)
    made, client = woven(r1)
    made.start(client)
    await settle()

    r1.end(StreamBroken("cut"))
    await settle()

    assert client.lines == [b'{"error":"r1: cut"}\n']


async def test_slow_client_holds_every_node_back() -> None:
    r1, r2 = Node("r1=h1"), Node("r2=h2")
    r2.answers.clear()
    made, client = woven(r1, r2)
    made.start(client)
    await settle()

    made.pause()
    r2.answers.set()
    await settle()
    held = (list(r1.told), list(r2.told))
    made.resume()

    assert held == (["pause"], ["pause"])
    assert (r1.told, r2.told) == (["pause", "resume"], ["pause", "resume"])


async def test_client_that_leaves_frees_every_node() -> None:
    r1, r2 = Node("r1=h1"), Node("r2=h2")
    r2.answers.clear()
    made, client = woven(r1, r2)
    made.start(client)
    await settle()

    made.close()
    made.close()
    await settle()

    assert r1.told == r2.told == ["close"]
    assert (client.lines, client.ends) == ([], [])


async def test_nothing_reaches_a_client_that_has_left() -> None:
    r1 = Node("r1=h1")
    made, client = woven(r1)
    made.start(client)
    await settle()

    made.close()
    r1.say(b'{"status":"a"}\n')

    assert client.lines == []


def test_error_of_an_unknown_form_is_told_by_its_status() -> None:
    assert fault(404, b"404 page not found") == "it answered 404"
    assert fault(500, b'{"status":"x"}') == "it answered 500"
    assert fault(500, b'{"error":"no"}') == "no"
