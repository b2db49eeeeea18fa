"""Responders in order."""

import asyncio

import pytest

from ollama_wrap.call import Call
from ollama_wrap.errors import AttemptsFailed, NoUpstream, Unavailable
from ollama_wrap.proxy import fallback
from ollama_wrap.reply import Reply, Sink

CALL = Call("id", "GET", b"/", "/", [])


class Body:
    """A Source that notes its end."""

    def __init__(self) -> None:
        self.closed = False

    def start(self, sink: Sink) -> None:
        sink.end(None)

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.closed = True


class Says:
    """A responder that answers, or fails, as it was told."""

    def __init__(self, what: Reply | BaseException) -> None:
        self.what = what
        self.before: list[Unavailable | None] = []

    async def answer(self, call: Call, before: Unavailable | None) -> Reply:
        self.before.append(before)
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what


def failed(answer: Reply | None = None) -> AttemptsFailed:
    error = AttemptsFailed("no node could answer", [("r1", "reset")])
    error.answer = answer
    return error


async def test_first_answer_is_the_answer() -> None:
    first, second = Says(Reply(200, [])), Says(Reply(201, []))

    reply = await fallback.answer(CALL, (first, second))

    assert reply.status == 200
    assert (first.before, second.before) == ([None], [])


async def test_next_one_is_told_why_the_first_had_no_answer() -> None:
    error = failed()
    second = Says(Reply(201, []))

    reply = await fallback.answer(CALL, (Says(error), second))

    assert reply.status == 201
    assert second.before == [error]


async def test_what_a_node_said_is_closed_where_another_answer_is_better() -> None:
    body = Body()

    await fallback.answer(CALL, (Says(failed(Reply(500, [], body))), Says(Reply(200, []))))

    assert body.closed


async def test_what_a_node_said_is_the_answer_where_there_is_no_better() -> None:
    body = Body()
    responders = (Says(failed(Reply(500, [], body))), Says(NoUpstream("nothing kept")))

    reply = await fallback.answer(CALL, responders)

    assert (reply.status, body.closed) == (500, False)


async def test_error_of_the_first_one_is_told() -> None:
    error = failed()

    with pytest.raises(AttemptsFailed) as caught:
        await fallback.answer(CALL, (Says(error), Says(NoUpstream("nothing kept"))))

    assert caught.value is error


@pytest.mark.parametrize("end", [asyncio.CancelledError(), RuntimeError("a fault of ours")])
async def test_what_a_node_said_is_closed_when_the_call_ends_early(end: BaseException) -> None:
    body = Body()

    with pytest.raises(type(end)):
        await fallback.answer(CALL, (Says(failed(Reply(500, [], body))), Says(end)))

    assert body.closed


async def test_nobody_in_line_is_an_error() -> None:
    with pytest.raises(NoUpstream):
        await fallback.answer(CALL, ())
