import logging
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
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

    assert modes == dict.fromkeys(("state.db", "state.db-wal"), 0o600)
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
    await store._run(lambda: store._db.execute("DROP TABLE entries"))

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

    keys = await store._run(lambda: store._db.execute("SELECT key FROM entries").fetchall())
    assert keys == [("n",)]
    await store.close()


async def test_second_process_does_not_get_at_the_file(tmp_path: Path, clock: FakeClock) -> None:
    store = SqliteStore(tmp_path / "state.db", clock)

    with (
        sqlite3.connect(tmp_path / "state.db", timeout=0) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("SELECT * FROM entries")

    other.close()
    await store.close()


# ---------------------------------------------------------------- a disk that takes nothing


@pytest.fixture
def full() -> Iterator[Callable[[bool], None]]:
    """Makes the disk full for this process, and empty again."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(on: bool) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if on else before[0], before[1]))

    yield fill
    fill(False)


async def test_full_disk_refuses_changes_and_gives_what_it_has(
    tmp_path: Path, clock: FakeClock, full: Callable[[bool], None]
) -> None:
    store = SqliteStore(tmp_path / "state.db", clock)
    await store.set("k", b"old")

    full(True)
    with pytest.raises(StoreUnavailable):
        await store.set("k", b"new")
    during = await store.get("k")
    full(False)
    await store.set("k", b"newer")

    assert (during, await store.get("k")) == (b"old", b"newer")
    await store.close()


async def test_state_on_a_full_disk_can_be_opened_and_read(
    tmp_path: Path, clock: FakeClock, full: Callable[[bool], None]
) -> None:
    path = tmp_path / "state.db"
    await keep(path, clock, b"v")

    full(True)
    store = SqliteStore(path, clock)
    value = await store.get("k")
    with pytest.raises(StoreUnavailable):
        await store.set("k", b"w")
    full(False)

    assert value == b"v"
    await store.close()
    assert await kept(path, clock) == b"v"


#: reads and writes a state whose disk is read-only, in a space of its own
READ_ONLY = """
import asyncio, pathlib, subprocess, sys
from ollama_wrap.clock import SystemClock
from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.folder import Folder
from ollama_wrap.state.sqlite import SqliteStore
path = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "--bind", path, path], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
folder = Folder(path)
try:
    Folder(path)
except StoreUnavailable as error:
    print("locked")
store = SqliteStore(path / "state.db", SystemClock())
print(asyncio.run(store.get("k")))
try:
    asyncio.run(store.set("k", b"w"))
except StoreUnavailable as error:
    print("refused")
asyncio.run(store.close())
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounts in a space of its own")
async def test_state_on_a_disk_that_is_read_only_can_be_read(
    tmp_path: Path, clock: FakeClock
) -> None:
    await keep(tmp_path / "state.db", clock, b"v")

    ran = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", READ_ONLY, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode and not ran.stdout:
        pytest.skip("this machine gives no space of its own to mount in")

    assert ran.stdout.split() == ["locked", "b'v'", "refused"]
