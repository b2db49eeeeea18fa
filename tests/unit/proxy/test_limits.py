import pytest

from ollama_wrap.call import Kind
from ollama_wrap.proxy.limits import Waits
from tests.fakes.nodes import call, upstream

WAITS = Waits(meta=5.0, show=15.0, first_byte=7.0, first_byte_once=9.0)


@pytest.mark.parametrize(
    "kind,node,repeatable,limit",
    [
        (Kind.INFER, "r1=h", True, (7.0, True)),
        (Kind.INFER, "local", True, (7.0, True)),
        (Kind.LIST, "r1=h", True, (5.0, False)),
        (Kind.FOLLOW, "r1=h", True, (15.0, False)),
        (Kind.FOLLOW, "local", True, (9.0, True)),
        (Kind.FOLLOW, "r1=h", False, (9.0, True)),
        (Kind.ONCE, "r1=h", False, (9.0, True)),
    ],
)
def test_limit_to_the_first_byte(
    kind: Kind, node: str, repeatable: bool, limit: tuple[float, bool]
) -> None:
    asked = call().altered(kind=kind, repeatable=repeatable)

    assert WAITS.of(asked, upstream(node)) == limit


@pytest.mark.parametrize(
    "waits,limit",
    [
        (Waits(total=60.0), (60.0, True)),
        (Waits(first_byte=7.0, total=60.0), (7.0, True)),
        (Waits(first_byte=90.0, total=60.0), (60.0, True)),
        (Waits(), (0.0, True)),
    ],
)
def test_limit_for_a_whole_answer_is_one_for_its_first_byte(
    waits: Waits, limit: tuple[float, bool]
) -> None:
    asked = call().altered(kind=Kind.INFER, repeatable=True)

    assert waits.of(asked, upstream("r1=h")) == limit
