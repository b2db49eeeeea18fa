"""Every test here runs on the plain asyncio loop and on uvloop, where there is one."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.wire.process import Start, sidecar_process

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, LoopFactory]:
    factories: dict[str, LoopFactory] = {"asyncio": asyncio.new_event_loop}
    if sys.platform != "win32":
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts the command with settings of its own."""
    return lambda *arguments, **settings: sidecar_process(tmp_path, arguments, settings)
