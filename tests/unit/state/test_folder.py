import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ollama_wrap.errors import StoreUnavailable
from ollama_wrap.state.folder import Folder


def test_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ollama-wrap" / "11434"

    folder = Folder(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((path / "lock").stat().st_mode) == 0o600
    folder.release()


def test_open_folder_is_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    folder = Folder(tmp_path)

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    folder.release()


def test_second_user_is_told_who_holds_it(tmp_path: Path) -> None:
    first = Folder(tmp_path)

    with pytest.raises(StoreUnavailable, match=f"in use by process {os.getpid()}$"):
        Folder(tmp_path)

    first.release()
    first.release()
    Folder(tmp_path).release()


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = f"""
import os, pathlib
from ollama_wrap.state.folder import Folder
folder = Folder(pathlib.Path({str(tmp_path)!r}))
os._exit(9)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)

    Folder(tmp_path).release()

    assert ended.returncode == 9


def test_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailable, match="no state folder at"):
        Folder(tmp_path / "file" / "state")


def test_lock_without_a_readable_holder_is_another_process(tmp_path: Path) -> None:
    first = Folder(tmp_path)
    (tmp_path / "lock").write_bytes(b"\xff\xfe")

    with pytest.raises(StoreUnavailable, match="in use by another process"):
        Folder(tmp_path)

    first.release()
