from ollama_wrap.reply import Origin, Reply
from tests.fakes.bodies import Stream


def test_reply_that_closes_closes_its_open_body() -> None:
    body = Stream()

    Reply(200, [], body).close()

    assert body.closed


def test_reply_of_bytes_holds_nothing_to_give_back() -> None:
    reply = Reply(200, [], b"whole")

    reply.close()

    assert reply.body == b"whole"


def test_replies_do_not_share_their_origin() -> None:
    first, second = Reply(200, []), Reply(200, [])

    first.origin.node = "r1"

    assert second.origin == Origin()
