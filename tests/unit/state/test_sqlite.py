import logging
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.sqlite import SWEEP_AFTER, SqliteStore
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(wall=1_700_000_000)


async def keep(path: Path, clock: FakeClock, value: bytes, ttl: float | None = None) -> None:
    store = SqliteStore(path, clock)
    await store.set("k", value, ttl)
    await store.close()


async def kept(path: Path, clock: FakeClock) -> bytes | None:
    store = SqliteStore(path, clock)
    value = await store.get("k")
    await store.close()
    return value


async def test_values_and_their_ends_outlive_the_process(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "state.db"
    await keep(path, clock, b"v", ttl=60)

    clock.advance(59)
    assert await kept(path, clock) == b"v"
    clock.advance(1)
    assert await kept(path, clock) is None


async def test_change_is_on_disk_without_a_close(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path, clock)

    await store.set("k", b"v")

    # What another process would find if this one were killed now.
    copy = tmp_path / "copy.db"
    for end in ("", "-wal"):
        copy.with_name(copy.name + end).write_bytes(path.with_name(path.name + end).read_bytes())
    assert await kept(copy, clock) == b"v"
    await store.close()


async def test_all_files_are_for_their_owner_alone(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "state.db"
    path.touch(0o644)
    before = os.umask(0)

    try:
        store = SqliteStore(path, clock)
        await store.set("k", b"v")
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    finally:
        os.umask(before)

    assert modes == dict.fromkeys(("state.db", "state.db-wal", "state.db-shm"), 0o600)
    await store.close()


@pytest.mark.parametrize("where", [0, 5000])
async def test_broken_file_is_moved_aside_and_said(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, where: int
) -> None:
    path = tmp_path / "state.db"
    await keep(path, clock, b"v" * 20_000)
    content = bytearray(path.read_bytes())
    content[where : where + 3000] = b"\xff" * 3000
    path.write_bytes(content)

    with caplog.at_level(logging.ERROR):
        value = await kept(path, clock)

    aside = tmp_path / "state.db.broken-1700000000"
    assert value is None
    assert aside.read_bytes() == bytes(content)
    assert f"is broken: moved to {aside}, started empty" in caplog.text


async def test_newer_file_is_moved_aside_whole(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.db"
    await keep(path, clock, b"v")
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()

    value = await kept(path, clock)

    aside = sqlite3.connect(tmp_path / "state.db.newer-1700000000")
    assert value is None
    assert aside.execute("SELECT value FROM entries").fetchall() == [(b"v",)]
    assert "newer version" in caplog.text
    aside.close()


async def test_file_that_cannot_be_opened_is_said_and_left_alone(
    tmp_path: Path, clock: FakeClock
) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        SqliteStore(tmp_path / "missing" / "state.db", clock)
    (tmp_path / "state.db").mkdir(0o755)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        SqliteStore(tmp_path / "state.db", clock)


async def test_store_that_fails_while_running_says_so(tmp_path: Path, clock: FakeClock) -> None:
    store = SqliteStore(tmp_path / "state.db", clock)
    await store.set("k", b"v")
    other = sqlite3.connect(tmp_path / "state.db")
    other.execute("DROP TABLE entries")
    other.close()

    with pytest.raises(StoreUnavailable, match="no such table"):
        await store.set("k", b"w")

    await store.close()


async def test_closed_store_is_unavailable(tmp_path: Path, clock: FakeClock) -> None:
    store = SqliteStore(tmp_path / "state.db", clock)

    await store.close()

    with pytest.raises(StoreUnavailable):
        await store.get("k")


async def test_expired_rows_are_removed_as_changes_go_on(tmp_path: Path, clock: FakeClock) -> None:
    store = SqliteStore(tmp_path / "state.db", clock)
    await store.set("short", b"v", ttl=1)
    clock.advance(2)

    for _ in range(SWEEP_AFTER):
        await store.add("n")

    with sqlite3.connect(tmp_path / "state.db") as db:
        keys = db.execute("SELECT key FROM entries").fetchall()
    db.close()
    assert keys == [("n",)]
    await store.close()
