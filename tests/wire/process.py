"""A sidecar as a process of its own, started with settings of its own."""

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

PATIENCE = 20.0
NOBODY = "http://127.0.0.1:1"


class Process:
    """A started `python -m ollama_wrap`, and what it writes to standard error."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.lines: list[str] = []
        self.port = 0

    async def says(self, pattern: str) -> re.Match[str]:
        """The first line with that, of those not read yet."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stderr.readline()).decode():
                self.lines.append(line)
                if found := re.search(pattern, line):
                    return found
        raise AssertionError(f"never said {pattern}: {''.join(self.lines)}")

    async def starts(self) -> str:
        """The line of the start."""
        found = await self.says(r"ollama-wrap [\d.]+ on http://[^ ]*:(\d+), .*nodes: [^\"]*")
        self.port = int(found[1])
        return found[0]

    async def ends(self) -> int:
        """Its exit code; everything that it wrote is in `lines` then."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            rest = await self.process.stderr.read()
            self.lines += rest.decode().splitlines(keepends=True)
            return await self.process.wait()

    @property
    def written(self) -> str:
        return "".join(self.lines)

    def send(self, number: int) -> None:
        self.process.send_signal(number)


Start = Callable[..., contextlib.AbstractAsyncContextManager[Process]]


@contextlib.asynccontextmanager
async def sidecar_process(
    folder: Path,
    arguments: Sequence[str],
    settings: Mapping[str, str],
    under: Sequence[str] = (),
    passed: Sequence[int] = (),
) -> AsyncIterator[Process]:
    """`python -m ollama_wrap` in `folder`; what still runs in the end is killed.

    `under`: a program that runs it. `passed`: files that it inherits.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("OLLAMA_") and name not in {"NODE_ID", "LOG_LEVEL"}
    }
    own = {
        "OLLAMA_WRAP_LISTEN": "127.0.0.1:0",
        "OLLAMA_LOCAL_ADDR": NOBODY,
        "OLLAMA_WRAP_STATE_DIR": str(folder / "state"),
        "OLLAMA_WRAP_CONFIG_DIR": str(folder / "config"),
    }
    process = await asyncio.create_subprocess_exec(
        *(*under, sys.executable, "-m", "ollama_wrap", *arguments),
        env={**kept, **own, **settings},
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=passed,
    )
    made = Process(process, folder)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await made.ends()
