import pytest

from ollama_wrap.call import Call, LongBody, Mode
from tests.fakes.nodes import call


def test_another_model_is_another_call() -> None:
    first = call("small", mode=Mode.DISTRIBUTED)

    second = first.altered(model="large", targets=("r1",))

    assert (first.model, first.targets) == ("small", ())
    assert (second.model, second.targets) == ("large", ("r1",))
    assert (second.id, second.mode, second.path) == (first.id, Mode.DISTRIBUTED, "/api/chat")


def test_calls_that_look_alike_are_not_the_same() -> None:
    assert call() != call()


def test_what_calls_collect_is_not_shared() -> None:
    first, second = (Call("id", "GET", b"/", "/", []) for _ in range(2))

    first.cors.append((b"Vary", b"Origin"))

    assert second.cors == []


@pytest.mark.parametrize("start,end", [(0, 1), (2, 4), (2, 3), (1, 7), (3, 6), (8, 9), (0, 9)])
@pytest.mark.parametrize("text", [b"", b"-", b"abcdefghijkl"])
def test_text_is_put_into_a_long_body(start: int, end: int, text: bytes) -> None:
    whole = b"123456789"
    body = LongBody((whole[:3], whole[3:4], whole[4:]), 9)

    changed = body.replaced(start, end, text)

    assert b"".join(changed.parts) == whole[:start] + text + whole[end:]
    assert len(changed) == sum(map(len, changed.parts))
    assert b"".join(body.parts) == whole
