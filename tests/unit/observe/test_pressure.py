"""What is read of this process, and the flags that the parts of the program look at."""

import contextlib
import resource
import socket
import sys

import pytest

from ollama_wrap.observe import host
from ollama_wrap.observe.pressure import Gauge, Measure, Strain

MIB = 1024 * 1024


def test_shares_are_of_what_we_may_have() -> None:
    gauge = Gauge(lambda: 256 * MIB, None)
    used = host.memory()

    pressure = gauge.read(5.0, 0.3)

    assert used is not None
    assert pressure.memory == pytest.approx(used / (256 * MIB), rel=0.1)
    assert (pressure.at, pressure.lag) == (5.0, 0.3)
    if (most := host.most_files()) is not None:
        assert pressure.files == pytest.approx((host.open_files() or 0) / most)


@pytest.mark.parametrize(
    "memory, allowed, wanted", [(3, None, 3), (3, 2, 2), (3, 4, 3), (0, 4, 4), (0, None, 0)]
)
def test_smaller_limit_of_the_two_holds(memory: int, allowed: int | None, wanted: int) -> None:
    gauge = Gauge(lambda: memory * MIB, None if allowed is None else allowed * MIB)
    used = host.memory()

    share = gauge.read(1.0, 0.0).memory

    assert used is not None
    assert share == (pytest.approx(used / wanted / MIB, rel=0.1) if wanted else None)


def test_files_without_a_limit_are_no_pressure() -> None:
    gauge = Gauge(lambda: 0, None)
    gauge.files = None

    assert gauge.read(1.0, 0.0).files is None


def test_what_cannot_be_read_without_a_free_file_is_what_it_was() -> None:
    gauge = Gauge(lambda: 256 * MIB, None)
    before = gauge.read(1.0, 0.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[socket.socket] = []

    resource.setrlimit(resource.RLIMIT_NOFILE, ((host.open_files() or 0) + 20, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(socket.socket())
        pressure = gauge.read(2.0, 0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in held:
            one.close()

    assert held
    assert pressure.memory == before.memory
    assert pressure.files is not None


@pytest.mark.skipif(sys.platform != "linux", reason="only there memory is given back on demand")
def test_freed_memory_is_given_back_now_and_then() -> None:
    gauge = Gauge(lambda: 0, None)
    given: list[int] = []
    for at in (10.0, 19.0, 20.0):
        kept = _freed_between()
        before = host.memory() or 0
        gauge.give_back(at)
        given.append(before - (host.memory() or 0))
        assert len(kept) == 80

    assert given[0] > 20 * MIB
    assert given[1] < 5 * MIB
    assert given[2] > 20 * MIB


def _freed_between() -> list[bytes]:
    """A few pieces of memory with many freed ones between, which an allocator keeps by itself."""
    return [bytes(16 * 1024) for _ in range(4000)][::50]


def test_flags_follow_the_measures() -> None:
    strain = Strain()
    flags = ("spare", "refuse", "hang_up", "brief", "turns_away")
    seen = {}
    for measure in Measure:
        strain.put(frozenset({measure}))
        seen[measure] = [name for name in flags if getattr(strain, name)]
    strain.put(frozenset())

    assert seen == {
        Measure.SPARE: ["spare"],
        Measure.REFUSE: ["refuse", "turns_away"],
        Measure.HANG_UP: ["hang_up"],
        Measure.SHED: ["turns_away"],
        Measure.BRIEF: ["brief"],
    }
    assert not any(getattr(strain, name) for name in flags)
