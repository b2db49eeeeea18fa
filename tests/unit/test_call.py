from ollama_wrap.call import Call, Mode
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
