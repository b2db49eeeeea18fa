import pytest

from ollama_wrap.backends.base import Unable
from ollama_wrap.errors import UpstreamError


class Stranger(Unable):
    name = "stranger"


@pytest.mark.parametrize("question", ["probe", "models", "loaded", "version"])
async def test_backend_that_cannot_ask_says_so_to_every_question(question: str) -> None:
    backend = Stranger(None)
    wanted = {"ping": True} if question == "probe" else {}

    with pytest.raises(UpstreamError, match="nodes with kind=stranger cannot be asked yet"):
        await getattr(backend, question)(1.0, **wanted)

    assert not backend.able
    await backend.close()
