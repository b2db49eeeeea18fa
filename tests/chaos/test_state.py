"""A process that is killed while it writes state: C29."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.chaos.figures import Run
from tests.chaos.programs import ROOT

#: points at which it is killed: in `make chaos`, in `make test`
FULL, SHORT = 600, 60
#: a file system in memory: killing loses nothing that a call has written, wherever that is
MEMORY = Path("/dev/shm")


@pytest.mark.once
@pytest.mark.skipif(sys.platform != "linux", reason="processes are traced as on Linux")
async def test_c29_sidecar_is_killed_at_every_state_write(run: Run, tmp_path: Path) -> None:
    points = FULL if run.full else SHORT
    folder = MEMORY / f"ollama-wrap-{os.getpid()}" if MEMORY.is_dir() else tmp_path
    folder.mkdir(exist_ok=True)
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.killed", str(folder), str(points)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        told, said = await process.communicate()
    finally:
        await asyncio.to_thread(_remove, folder)
    if b"cannot be traced here" in said:
        pytest.skip("processes cannot be traced here")
    assert process.returncode == 0, said.decode()[-2000:]
    found = json.loads(told)

    run.seen("system calls while it opens, writes and closes", found["calls"])
    run.least("points", found["points"], points)
    run.none("states that are neither the old nor the new one", found["wrong"])


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
