from pathlib import Path

import pytest

from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state import open_store


async def test_sqlite_lives_in_the_state_folder(tmp_path: Path) -> None:
    store = open_store("sqlite", tmp_path)

    await store.set("k", b"v")

    assert (tmp_path / "state.db").stat().st_size
    await store.close()


@pytest.mark.parametrize("setting", ["redis://user:secret@host/0", "rediss://host"])
def test_redis_is_refused_in_plain_words(tmp_path: Path, setting: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        open_store(setting, tmp_path)

    assert "does not keep state in Redis yet" in caught.value.text
    assert "secret" not in caught.value.text


@pytest.mark.parametrize("setting", ["", "postgres", "sqlite:///x", "http://h", "SQLITE"])
def test_unknown_store_is_refused(tmp_path: Path, setting: str) -> None:
    with pytest.raises(StoreUnavailable, match="OLLAMA_WRAP_STORE"):
        open_store(setting, tmp_path)
