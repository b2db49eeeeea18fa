import pytest

from ollama_wrap.nodes.sidecar import PROTO, Sidecar


@pytest.mark.parametrize(
    "proto, shared",
    [
        (PROTO, True),
        ((PROTO[0], PROTO[1] + 5), True),
        ((0, PROTO[0]), True),
        ((PROTO[1] + 1, PROTO[1] + 2), False),
        ((0, PROTO[0] - 1), False),
    ],
)
def test_sidecars_go_together_that_share_a_version_of_the_protocol(
    proto: tuple[int, int], shared: bool
) -> None:
    assert Sidecar("r1", proto=proto).compatible is shared
