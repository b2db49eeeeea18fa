import json

import pytest

from ollama_wrap.backends import sidecar
from ollama_wrap.backends.client import Answer
from ollama_wrap.errors import BadReply, UpstreamError
from ollama_wrap.nodes.sidecar import Sidecar

PING = {
    "id": "tower",
    "boot": "b-1",
    "proto": [1, 1],
    "ollama": True,
    "in_flight": 3,
    "queued": 1,
    "slots": 4,
    "loaded": ["tiny"],
    "drain": False,
    "models_version": "v7",
    "time": 1_700_000_000.5,
}


def answer(body: bytes, status: int = 200) -> Answer:
    return Answer(status, body, "10.0.0.7")


def said(**facts: object) -> Answer:
    return answer(json.dumps({**PING, **facts}).encode())


def test_everything_that_a_ping_says_is_read() -> None:
    probe = sidecar.read(said())

    assert probe is not None
    assert probe.wall == 1_700_000_000.5
    assert probe.address == "10.0.0.7"
    assert probe.sidecar == Sidecar(
        id="tower",
        boot="b-1",
        proto=(1, 1),
        ollama=True,
        in_flight=3,
        queued=1,
        slots=4,
        loaded=("registry.ollama.ai/library/tiny:latest",),
        drain=False,
        models_version="v7",
    )


@pytest.mark.parametrize("saturated", [True, False])
def test_sidecar_that_takes_no_inference_says_so(saturated: bool) -> None:
    probe = sidecar.read(said(saturated=saturated))

    assert probe is not None
    assert probe.sidecar is not None
    assert probe.sidecar.saturated is saturated


def test_slots_that_are_not_known_and_keys_of_later_versions_are_fine() -> None:
    probe = sidecar.read(said(slots=None, mood="sunny"))

    assert probe is not None
    assert probe.sidecar is not None
    assert probe.sidecar.slots is None


@pytest.mark.parametrize(
    "body",
    [
        b"404 page not found",
        b'"ok"',
        b"{}",
        b'{"id":"tower","boot":"b"}',
        b'{"id":"a b","boot":"b","proto":[1,1]}',
        b'{"id":"tower\\n","boot":"b","proto":[1,1]}',
        b"\xff",
        b"[" * 4000,
    ],
)
def test_answer_that_is_no_ping_means_a_plain_node(body: bytes) -> None:
    assert sidecar.read(answer(body)) is None


@pytest.mark.parametrize("status", [301, 401, 404, 405])
def test_refused_ping_means_a_plain_node(status: int) -> None:
    assert sidecar.read(answer(json.dumps(PING).encode(), status)) is None


def test_failed_ping_says_nothing_of_what_the_node_is() -> None:
    with pytest.raises(UpstreamError, match="answered 503"):
        sidecar.read(answer(b"", 503))


@pytest.mark.parametrize("proto, compatible", [([1, 3], True), ([2, 3], False), ([0, 0], False)])
def test_versions_that_do_not_overlap_are_incompatible(
    proto: list[int], *, compatible: bool
) -> None:
    probe = sidecar.read(said(proto=proto))

    assert probe is not None
    assert probe.sidecar is not None
    assert probe.sidecar.compatible is compatible


def test_ping_of_another_protocol_may_look_different() -> None:
    probe = sidecar.read(answer(b'{"id":"tower","boot":"b","proto":[2,3],"in_flight":"many"}'))

    assert probe is not None
    assert probe.sidecar == Sidecar("tower", "b", (2, 3), ollama=False)


@pytest.mark.parametrize("facts", [{"in_flight": -1}, {"loaded": "tiny"}, {"drain": "no"}])
def test_ping_of_our_protocol_that_cannot_be_read_is_an_error(facts: dict[str, object]) -> None:
    with pytest.raises(BadReply, match="its ping cannot be read"):
        sidecar.read(said(**facts))
