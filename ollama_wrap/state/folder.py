"""The state folder: made for its owner alone, and used by one process at a time.

Owns the folder's mode and the file `lock` in it. The lock is the kernel's, so
it ends with the process, however that ends. Knows nothing of what is inside.
"""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

from ollama_wrap.errors import StoreUnavailable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


#: the disk is read-only, full, or broken
_UNWRITABLE = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO}


class Folder:
    """A locked state folder; keep it as long as the process uses the folder."""

    def __init__(self, path: Path) -> None:
        """Make the folder 0700 and lock it.

        Raises StoreUnavailable with a sentence that names who holds it, or why
        it cannot be made; the program then ends with exit code 69.
        """
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock: int | None = _made(path)
        except OSError as error:
            raise StoreUnavailable(f"no state folder at {path}: {error.strerror}") from error
        try:
            _lock(self._lock)
        except OSError as error:
            self.release()
            who = f"process {held}" if (held := _holder(path)) else "another process"
            raise StoreUnavailable(f"the state folder {path} is in use by {who}") from error
        # Only for people who read the file: the lock itself is the kernel's.
        with suppress(OSError):
            os.ftruncate(self._lock, 0)
            os.write(self._lock, b"%d" % os.getpid())

    def release(self) -> None:
        """Let others have it; may be called twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _made(path: Path) -> int:
    """The open file to lock, in a folder that is for its owner alone."""
    lock = path / "lock"
    try:
        path.chmod(0o700)
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        # Nothing can be stored there now, which is no reason to answer no calls.
        return os.open(lock if lock.exists() else path, os.O_RDONLY)


def _holder(path: Path) -> str | None:
    try:
        held = (path / "lock").read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return held if held.isdigit() else None


def _lock(file: int) -> None:
    if sys.platform == "win32":
        # A byte far behind the text, which others may then still read.
        os.lseek(file, 1 << 20, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
