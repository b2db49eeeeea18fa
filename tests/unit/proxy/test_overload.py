"""Which measures hold at which pressure, when they end, and who is told."""

import contextlib
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_wrap import tasks
from ollama_wrap.observe import log
from ollama_wrap.observe.pressure import EVERY, Measure, Pressure, Strain
from ollama_wrap.proxy.overload import Overload, Relief, relief
from tests.fakes.clock import FakeClock

NOTHING = Relief()
SPARE, REFUSE, HANG_UP = Measure.SPARE, Measure.REFUSE, Measure.HANG_UP


def after(*readings: Pressure, before: Relief = NOTHING) -> Relief:
    for reading in readings:
        before = relief(before, reading)
    return before


def late(*times: float, lag: float = 0.3) -> list[Pressure]:
    return [Pressure(at, lag) for at in times]


@pytest.mark.parametrize(
    "share, wanted",
    [
        (None, set()),
        (0.80, set()),
        (0.81, {SPARE}),
        (0.90, {SPARE}),
        (0.91, {SPARE, REFUSE}),
        (0.96, {SPARE, REFUSE, HANG_UP}),
        (7.0, {SPARE, REFUSE, HANG_UP}),
    ],
)
def test_each_share_of_memory_has_its_measures(share: float | None, wanted: set[Measure]) -> None:
    assert after(Pressure(1.0, memory=share)).measures == wanted


@pytest.mark.parametrize("share, holds", [(0.90, False), (0.91, True)])
def test_few_files_end_connections_after_their_answer(share: float, *, holds: bool) -> None:
    measures = after(Pressure(1.0, files=share, memory=0.1)).measures

    assert measures == ({Measure.BRIEF} if holds else set())


@pytest.mark.parametrize(
    "shares, wanted",
    [
        ((0.96, 0.92), {SPARE, REFUSE, HANG_UP}),
        ((0.96, 0.89), {SPARE, REFUSE}),
        ((0.96, 0.84), {SPARE}),
        ((0.96, 0.76), {SPARE}),
        ((0.96, 0.74), set()),
        ((0.79, 0.76), set()),
        # What the system no longer tells is not held against anybody.
        ((0.96, None), set()),
    ],
)
def test_measure_ends_well_below_where_it_began(
    shares: Iterable[float | None], wanted: set[Measure]
) -> None:
    assert after(*(Pressure(1.0, memory=one) for one in shares)).measures == wanted


@pytest.mark.parametrize(
    "readings, holds",
    [
        (late(0.0, 2.0, 4.9), False),
        (late(0.0, 2.0, 5.0), True),
        (late(0.0, 60.0), True),
        (late(60.0), False),
        ([*late(0.0, 4.0), Pressure(4.5), *late(5.0, 9.0)], False),
        (late(0.0, 2.0, 5.0, lag=0.25), False),
    ],
)
def test_loop_has_to_be_late_for_some_time(readings: list[Pressure], *, holds: bool) -> None:
    assert (Measure.SHED in after(*readings).measures) is holds


@pytest.mark.parametrize(
    "readings, holds",
    [
        (late(10.0, 14.9, lag=0.1), True),
        (late(10.0, 15.0, lag=0.1), False),
        (late(10.0, 15.0, 20.0, lag=0.2), True),
        ([*late(10.0, lag=0.1), *late(12.0, lag=0.2), *late(15.0, 19.0, lag=0.1)], True),
    ],
)
def test_loop_has_to_be_punctual_for_some_time(readings: list[Pressure], *, holds: bool) -> None:
    shed = Relief(frozenset({Measure.SHED}))

    assert (Measure.SHED in after(*readings, before=shed).measures) is holds


SHARES = st.none() | st.floats(0.0, 1.2)
READINGS = st.lists(st.tuples(SHARES, st.floats(0.0, 1.0), SHARES), max_size=40)


@given(READINGS)
def test_worse_measures_never_hold_without_the_milder_ones(
    readings: list[tuple[float | None, float, float | None]],
) -> None:
    held = NOTHING
    for number, (memory, lag, files) in enumerate(readings):
        held = relief(held, Pressure(number * EVERY, lag, memory, files))

        order = [one in held.measures for one in (SPARE, REFUSE, HANG_UP)]
        assert order == sorted(order, reverse=True)
        assert held.turning is None or held.turning <= number * EVERY


@given(st.lists(st.floats(0.851, 0.899), min_size=2, max_size=30))
def test_memory_that_sways_a_little_changes_nothing(shares: list[float]) -> None:
    held = [NOTHING]
    for share in shares:
        held.append(relief(held[-1], Pressure(1.0, memory=share)))

    assert {one.measures for one in held[1:]} == {frozenset({SPARE})}


class Reader:
    """Says what a test has written."""

    def __init__(self) -> None:
        self.memory = 0.1
        self.returned: list[float] = []
        self.lags: list[float] = []

    def read(self, at: float, lag: float) -> Pressure:
        self.lags.append(lag)
        return Pressure(at, lag, self.memory, 0.1)

    def give_back(self, at: float) -> None:
        self.returned.append(at)


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock(start=0.0)
        self.reader = Reader()
        self.strain = Strain()
        self.asked = 0
        self.overload = Overload(self.reader, self.strain, self._again, self.clock)

    def _again(self) -> int:
        self.asked += 1
        return 7


async def test_reading_comes_four_times_a_second() -> None:
    bench = Bench()
    loop = tasks.start(bench.overload.run(), "overload")

    await bench.clock.run(2.0)
    await tasks.stop(loop)

    assert bench.reader.lags == [0.0] * 8
    assert bench.overload.pressure.at == 2.0


async def test_loop_that_comes_late_is_seen() -> None:
    bench = Bench()
    loop = tasks.start(bench.overload.run(), "overload")
    await bench.clock.run(0.0)

    bench.clock.advance(1.0)
    await bench.clock.run(0.0)
    await tasks.stop(loop)

    assert bench.reader.lags == [0.75]


@contextlib.contextmanager
def logged() -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile; the list is full when the block is left."""
    before = log._output.level, log._output.format
    lines: list[dict[str, Any]] = []
    with contextlib.redirect_stderr(io.StringIO()) as written:
        log.configure("info", "json")
        yield lines
        log.flush()
    log._output.level, log._output.format = before
    lines += [json.loads(line) for line in written.getvalue().splitlines()]


def test_flags_are_set_while_it_lasts() -> None:
    bench = Bench()
    bench.reader.memory = 0.92

    bench.overload.look(1.0, 0.0)
    refusing = bench.strain.refuse, bench.strain.retry_after
    bench.reader.memory = 0.5
    bench.overload.look(2.0, 0.0)

    assert refusing == (True, 7)
    assert not bench.strain.measures
    assert (bench.reader.returned, bench.asked) == ([1.0], 1)


def test_each_change_is_logged_once() -> None:
    bench = Bench()
    with logged() as lines:
        for at, memory in enumerate([0.1, 0.85, 0.86, 0.92, 0.88, 0.5, 0.5]):
            bench.reader.memory = memory
            bench.overload.look(float(at), 0.0)

    assert [
        (line["level"], line["event"], line["measures"], line["ended"], line["memory"])
        for line in lines
    ] == [
        ("warning", "overload", "spare-memory", "", "85%"),
        ("warning", "overload", "refuse-inference spare-memory", "", "92%"),
        ("info", "overload is over", "", "refuse-inference spare-memory", "50%"),
    ]
