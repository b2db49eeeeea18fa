import asyncio

from ollama_wrap.errors import StreamBroken
from ollama_wrap.proxy.responders.settled import Settled
from tests.fakes.bodies import Client, Stream
from tests.fakes.clock import settle

PULLING, SUCCESS = b'{"status":"pulling"}\n', b'{"status":"success"}\n'


class Stage:
    def __init__(self) -> None:
        self.known = asyncio.Event()
        self.body, self.client = Stream(), Client()
        self.settled = Settled(self.body, self._known)
        self.settled.start(self.client)

    async def _known(self) -> None:
        await self.known.wait()


async def test_word_of_success_waits_until_the_change_is_known() -> None:
    stage = Stage()

    stage.settled.feed([PULLING, SUCCESS])
    stage.settled.end(None)
    await settle()
    before = (list(stage.client.lines), list(stage.client.ends))
    stage.known.set()
    await settle()

    assert before == ([PULLING], [])
    assert (stage.client.lines, stage.client.ends) == ([PULLING, SUCCESS], [None])


async def test_stream_that_breaks_or_fails_waits_for_nothing() -> None:
    broken, failed = Stage(), Stage()
    error = StreamBroken("gone")

    broken.settled.feed([SUCCESS])
    broken.settled.end(error)
    failed.settled.feed([b'{"error":"no"}\n'])
    failed.settled.end(None)

    assert (broken.client.lines, broken.client.ends) == ([SUCCESS], [error])
    assert failed.client.ends == [None]


async def test_client_that_leaves_meanwhile_hears_nothing_more() -> None:
    stage = Stage()
    stage.settled.feed([SUCCESS])
    stage.settled.end(None)
    await settle()

    stage.settled.close()
    stage.known.set()
    await settle()

    assert (stage.client.lines, stage.client.ends, stage.body.told) == ([], [], ["close"])


async def test_flow_is_the_nodes_matter() -> None:
    stage = Stage()

    stage.settled.pause()
    stage.settled.resume()

    assert (stage.body.sink, stage.body.told) == (stage.settled, ["pause", "resume"])
