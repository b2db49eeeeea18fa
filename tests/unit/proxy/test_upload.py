"""A body on its way to a node, at the pace at which the node takes it."""

import asyncio

import pytest

from ollama_wrap import tasks
from ollama_wrap.errors import StreamBroken
from ollama_wrap.proxy import upload
from tests.fakes.clock import settle
from tests.fakes.warm import HEAD, Node, slow

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Body:
    """Pieces of a client's body; None: the client leaves there."""

    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces = list(pieces)

    async def read(self) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if piece is None:
            raise StreamBroken("the client has left")
        return piece


def begun() -> Node:
    node = Node()
    node.connection.send(b"HEAD ", bare=False, whole=False)
    return node


@pytest.mark.parametrize(
    "chunked, sent", [(False, b"HEAD abcd"), (True, b"HEAD 3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")]
)
async def test_body_is_framed_as_it_was_announced(chunked: bool, sent: bytes) -> None:
    node = begun()

    await upload.stream(Body(b"abc", b"d"), node.connection, chunked=chunked)

    assert (node.asked, node.connection.whole) == (sent, True)


async def test_nothing_is_read_while_the_node_takes_nothing() -> None:
    node, body = begun(), Body(b"a", b"b", b"c")

    with slow(node):
        task = tasks.start(upload.stream(body, node.connection, chunked=False), "upload")
        await settle()
        assert node.asked == b"HEAD a"
        assert len(body.pieces) == 2
    await task

    assert node.asked == b"HEAD abc"


async def test_answer_that_comes_early_ends_the_upload_and_its_connection() -> None:
    node, body = begun(), Body(b"a", b"b")

    with slow(node):
        task = tasks.start(upload.stream(body, node.connection, chunked=False), "upload")
        await settle()
        node.says(ANSWER)
    await task

    assert (node.asked, len(body.pieces)) == (b"HEAD a", 1)
    assert (node.transport.gone, node.free) == (True, False)


async def test_node_that_ends_the_connection_ends_the_upload() -> None:
    node, body = begun(), Body(b"a", b"b")

    with slow(node):
        task = tasks.start(upload.stream(body, node.connection, chunked=False), "upload")
        await settle()
        node.ends()
        await asyncio.wait_for(task, 1)

    assert len(body.pieces) == 1


async def test_client_that_leaves_in_mid_body_leaves_it_unfinished() -> None:
    node = begun()

    await upload.stream(Body(b"a", None), node.connection, chunked=True)

    assert node.asked == b"HEAD 1\r\na\r\n"
    assert not node.connection.whole


async def test_connection_serves_on_when_both_are_whole() -> None:
    node = begun()

    await upload.stream(Body(b"a"), node.connection, chunked=False)
    node.says(ANSWER)

    assert (node.free, node.transport.gone) == (True, False)


async def test_stream_of_an_answer_does_not_end_the_upload() -> None:
    node, body = begun(), Body(b"a", b"b")

    with slow(node):
        task = tasks.start(upload.stream(body, node.connection, chunked=False), "upload")
        await settle()
        node.says(HEAD)
    await task

    assert node.asked == b"HEAD ab"
