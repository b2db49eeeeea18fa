"""Store in one SQLite file, `state.db` in the state folder.

Owns that file: its mode 0600, its schema, and what happens when it is broken
or was written by a newer version (moved aside, said, started empty). All work
runs in one thread, and a change is on the disk before the method returns.
Knows nothing of what is stored.
"""

import asyncio
import errno
import logging
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ollama_wrap.clock import Clock
from ollama_wrap.errors import Conflict, StoreUnavailable
from ollama_wrap.state.memory import whole_number

log = logging.getLogger(__name__)
T = TypeVar("T")

SCHEMA = 1
#: SQLite's codes for a file that is no database, or a damaged one
BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
#: changes between two removals of what has expired
SWEEP_AFTER = 1000

#: what has expired is there until it is swept, and is never given
ALIVE = "(expires IS NULL OR expires > :now)"
PUT = "INSERT OR REPLACE INTO entries VALUES (:key, :value, :expires)"


class SqliteStore:
    """The state of one host; the folder's lock keeps other processes out."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Open or create the file; raises StoreUnavailable if that cannot be done."""
        self._clock = clock
        self._changes = 0
        with _translated(path):
            self._db = _open(path, clock)
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._closed = False

    async def get(self, key: str) -> bytes | None:
        return await self._run(lambda: self._value(key))

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        await self._run(lambda: self._put(key, value, self._expires(ttl)))

    async def delete(self, key: str) -> bool:
        return await self._run(lambda: self._delete(key))

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        return await self._run(lambda: self._scan(prefix))

    async def add(self, key: str, amount: int = 1, ttl: float | None = None) -> int:
        return await self._run(lambda: self._add(key, amount, self._expires(ttl)))

    async def swap(self, key: str, old: bytes | None, new: bytes, ttl: float | None = None) -> None:
        await self._run(lambda: self._swap(key, old, new, self._expires(ttl)))

    async def expire(self, key: str, ttl: float | None) -> bool:
        return await self._run(lambda: self._expire(key, self._expires(ttl)))

    async def close(self) -> None:
        if not self._closed:
            await self._run(self._db.close)
            self._closed = True
            self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the state is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._translating, work)

    def _translating(self, work: Callable[[], T]) -> T:
        with _translated(self._path):
            return work()

    def _value(self, key: str) -> bytes | None:
        row = self._row(key)
        return None if row is None else row[0]

    def _row(self, key: str) -> tuple[bytes, float | None] | None:
        found: tuple[bytes, float | None] | None = self._db.execute(
            f"SELECT value, expires FROM entries WHERE key = :key AND {ALIVE}",  # noqa: S608 - constant
            {"key": key, "now": self._clock.now()},
        ).fetchone()
        return found

    def _put(self, key: str, value: bytes, expires: float | None) -> None:
        self._db.execute(PUT, {"key": key, "value": value, "expires": expires})
        self._changes += 1
        if self._changes >= SWEEP_AFTER:
            self._changes = 0
            _sweep(self._db, self._clock.now())

    def _delete(self, key: str) -> bool:
        found = self._row(key) is not None
        self._db.execute("DELETE FROM entries WHERE key = ?", (key,))
        return found

    def _scan(self, prefix: str) -> list[tuple[str, bytes]]:
        return self._db.execute(
            f"SELECT key, value FROM entries WHERE key >= :prefix AND {ALIVE}"  # noqa: S608 - constant
            # Not LIKE: a prefix may have its wildcards in it.
            " AND substr(key, 1, length(:prefix)) = :prefix ORDER BY key",
            {"prefix": prefix, "now": self._clock.now()},
        ).fetchall()

    def _add(self, key: str, amount: int, expires: float | None) -> int:
        # A counter keeps the expiry that it was begun with.
        value, end = self._row(key) or (None, expires)
        total = whole_number(key, value) + amount
        self._put(key, b"%d" % total, end)
        return total

    def _swap(self, key: str, old: bytes | None, new: bytes, expires: float | None) -> None:
        if self._value(key) != old:
            raise Conflict(f"{key} was changed by somebody else")
        self._put(key, new, expires)

    def _expire(self, key: str, expires: float | None) -> bool:
        value = self._value(key)
        if value is None:
            return False
        self._put(key, value, expires)
        return True

    def _expires(self, ttl: float | None) -> float | None:
        return None if ttl is None else self._clock.now() + ttl


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"the state in {path} cannot be used: {error}") from error


def _open(path: Path, clock: Clock) -> sqlite3.Connection:
    try:
        return _connect(path, clock)
    except _Unusable as error:
        unusable = error
    aside = _move_aside(path, f"{unusable.word}-{int(clock.now())}")
    log.error("the state in %s %s: moved to %s, started empty", path, unusable, aside)
    return _connect(path, clock)


class _Unusable(Exception):
    """The file is there and cannot be read by this version."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


def _connect(path: Path, clock: Clock) -> sqlite3.Connection:
    # Made first, so that SQLite never creates it, nor the files beside it, with the umask's mode.
    try:
        path.touch(0o600)
        path.chmod(0o600)
    except OSError as error:
        if error.errno != errno.EROFS or not _whole(path):
            raise
        return _read_only(path)
    # Each statement is its own transaction; the one thread keeps a read and its write together.
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db)
        _sweep(db, clock.now())
    except sqlite3.DatabaseError as error:
        db.close()
        # The low byte is the error; the rest says which sort of it.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in BROKEN:
            raise _Unusable("broken", "is broken") from error
        raise
    except _Unusable:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    # The folder is ours alone. So no file has to be shared with anybody, which a full disk
    # would have no room for, and what is there can be read on it.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    version = _checked(db)
    db.execute("PRAGMA journal_mode = WAL")
    # In WAL mode anything less may lose the last changes when the power goes.
    db.execute("PRAGMA synchronous = FULL")
    if version < SCHEMA:
        db.execute(
            "CREATE TABLE IF NOT EXISTS entries"
            " (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL) WITHOUT ROWID"
        )
        db.execute(f"PRAGMA user_version = {SCHEMA}")


def _checked(db: sqlite3.Connection) -> int:
    """The version of the schema. Raises _Unusable."""
    version: int
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA:
        raise _Unusable("newer", "was written by a newer version")
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise _Unusable("broken", "is broken")
    return version


def _whole(path: Path) -> bool:
    """Whether the file says it all: its last changes are not in the log beside it."""
    beside = path.with_name(path.name + "-wal")
    return path.is_file() and not (beside.exists() and beside.stat().st_size)


def _read_only(path: Path) -> sqlite3.Connection:
    log.warning("the state in %s can be read and not written: no choice can be stored", path)
    there = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    db = sqlite3.connect(there, uri=True, isolation_level=None, check_same_thread=False)
    try:
        _checked(db)
    except BaseException:
        db.close()
        raise
    return db


def _sweep(db: sqlite3.Connection, now: float) -> None:
    db.execute("DELETE FROM entries WHERE expires <= ?", (now,))


def _move_aside(path: Path, suffix: str) -> Path:
    aside = path.with_name(f"{path.name}.{suffix}")
    # With its log, where the last changes may still be; that goes first, so that a crash in
    # between does not leave it to the new file.
    for end in ("-wal", "-shm", ""):
        file = path.with_name(path.name + end)
        if file.exists():
            file.replace(aside.with_name(aside.name + end))
    return aside
