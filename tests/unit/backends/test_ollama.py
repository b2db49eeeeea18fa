from typing import cast

import pytest

from ollama_wrap.backends.client import Answer, Client, Question
from ollama_wrap.backends.ollama import Ollama
from ollama_wrap.errors import BadReply, UpstreamError
from ollama_wrap.nodes.inventory import Loaded, Model

PLAIN = b"404 page not found"
PING = (
    b'{"id":"tower","boot":"b","proto":[1,1],"ollama":true,"in_flight":0,"queued":0,'
    b'"slots":1,"loaded":[],"drain":false,"models_version":"1","time":1.0}'
)


class Wire:
    """Stands where the Client is: one answer a path, others as stock answers them."""

    def __init__(self, **answers: bytes | tuple[int, bytes]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def ask(self, question: Question) -> Answer:
        name = question.path.rpartition("/")[2]
        self.asked.append(name)
        said = self._answers.get(name, (404, PLAIN))
        status, body = said if isinstance(said, tuple) else (200, said)
        return Answer(status, body, "10.0.0.7")


def ollama(wire: Wire) -> Ollama:
    return Ollama(cast("Client", wire))


async def test_probe_of_a_plain_node_is_its_version() -> None:
    wire = Wire(version=b'{"version":"0.33.0"}')

    probe = await ollama(wire).probe(1.5, ping=False)

    assert wire.asked == ["version"]
    assert (probe.version, probe.sidecar, probe.address) == ("0.33.0", None, "10.0.0.7")


async def test_probe_of_a_sidecar_is_its_ping() -> None:
    wire = Wire(ping=PING, version=b'{"version":"0.33.0"}')

    probe = await ollama(wire).probe(1.5, ping=True)

    assert wire.asked == ["ping"]
    assert probe.sidecar is not None
    assert probe.sidecar.id == "tower"


async def test_node_that_gives_no_ping_is_asked_for_its_version() -> None:
    wire = Wire(version=b'{"version":"0.33.0"}')

    probe = await ollama(wire).probe(1.5, ping=True)

    assert wire.asked == ["ping", "version"]
    assert (probe.version, probe.sidecar) == ("0.33.0", None)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"version":1}', b"{}", b'{"version":"\xff"}'])
async def test_version_that_cannot_be_read_is_an_error(body: bytes) -> None:
    with pytest.raises(BadReply, match="not a version"):
        await ollama(Wire(version=body)).version(1.0)


async def test_models_are_read_with_their_keys_and_their_own_bytes() -> None:
    raw = b'{"name":"Tiny","model":"Tiny","size":240001,"digest":"ee1c","extra":[1, 2.50]}'

    models = await ollama(Wire(tags=b'{"models":[%s]}' % raw)).models(1.0)

    key = "registry.ollama.ai/library/tiny:latest"
    assert models == (Model("Tiny", key, "ee1c", 240001, remote=False, raw=raw),)


@pytest.mark.parametrize(
    "entry", [b'{"name":"a","remote_host":"https://b"}', b'{"name":"a:cloud"}']
)
async def test_stub_whose_weights_are_elsewhere_is_marked(entry: bytes) -> None:
    models = await ollama(Wire(tags=b'{"models":[%s]}' % entry)).models(1.0)

    assert [model.remote for model in models] == [True]


async def test_model_whose_name_stock_would_refuse_is_left_out() -> None:
    body = b'{"models":[{"name":"../x"},{"name":"tiny"}]}'

    models = await ollama(Wire(tags=body)).models(1.0)

    assert [model.name for model in models] == ["tiny"]


async def test_loaded_models_are_read_with_their_own_bytes() -> None:
    raw = b'{"name":"tiny","digest":"ee1c","expires_at":"2319-01-01T00:00:00Z","size_vram":7}'

    loaded = await ollama(Wire(ps=b'{"models":[%s]}' % raw)).loaded(1.0)

    key = "registry.ollama.ai/library/tiny:latest"
    assert loaded == (Loaded(key, "ee1c", raw, "2319-01-01T00:00:00Z", 7),)


@pytest.mark.parametrize("body", [b'{"models":[]}', b'{"models":null}'])
async def test_empty_list_is_empty(body: bytes) -> None:
    assert await ollama(Wire(tags=body)).models(1.0) == ()
    assert await ollama(Wire(ps=body)).loaded(1.0) == ()


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"models":{}}', b'{"models":[1]}', b'{"models":[{']
)
async def test_list_that_cannot_be_read_is_an_error_and_not_empty(body: bytes) -> None:
    with pytest.raises(BadReply):
        await ollama(Wire(tags=body)).models(1.0)
    with pytest.raises(BadReply):
        await ollama(Wire(ps=body)).loaded(1.0)


async def test_refused_list_is_an_error_of_its_own() -> None:
    with pytest.raises(UpstreamError, match="/api/tags answered 500") as caught:
        await ollama(Wire(tags=(500, b'{"error":"no"}'))).models(1.0)

    assert not isinstance(caught.value, BadReply)
