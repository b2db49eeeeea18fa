"""What answers that stream together say of a node."""

from ollama_wrap.proxy.overlap import LEAST, Overlap, Stream
from tests.fakes.nodes import key, upstream

M = key("m")


class Bench:
    def __init__(self, slots: int | None = None) -> None:
        self.node = upstream("r1=h1", slots=slots)
        self.overlap = Overlap()

    def begin(self, now: float, model: str = "m") -> Stream:
        return self.overlap.begin(self.node, key(model), now)

    def end(self, stream: Stream, now: float, model: str = "m") -> None:
        self.overlap.end(self.node, key(model), stream, now)

    @property
    def slots(self) -> int:
        return self.node.slots(M)[0]


def test_answers_that_stream_together_are_slots() -> None:
    bench = Bench()
    streams = [bench.begin(now) for now in (0.0, 0.1, 0.2)]

    for stream in reversed(streams):
        bench.end(stream, 1.0)

    assert bench.slots == 3
    assert bench.overlap._open == {}


def test_answer_that_began_first_and_ended_first_counts_too() -> None:
    bench = Bench()
    first, second = bench.begin(0.0), bench.begin(1.0)
    bench.end(first, 1.0 + 2 * LEAST)

    bench.end(second, 9.0)

    assert bench.slots == 2


def test_answers_one_after_the_other_are_one_slot() -> None:
    bench = Bench()
    first = bench.begin(0.0)
    bench.end(first, 1.0)
    second = bench.begin(1.0)
    bench.end(second, 2.0)

    assert bench.slots == 1


def test_last_bytes_that_come_late_are_no_slot() -> None:
    bench = Bench()
    first, second = bench.begin(0.0), bench.begin(1.0)
    bench.end(first, 1.0 + LEAST / 2)

    bench.end(second, 9.0)

    assert bench.slots == 1


def test_answer_of_a_slow_client_proves_nothing() -> None:
    bench = Bench()
    first, second = bench.begin(0.0), bench.begin(1.0)
    first.paused = True

    bench.end(second, 9.0)

    assert bench.slots == 1


def test_answers_of_other_models_are_other_slots() -> None:
    bench = Bench()
    bench.begin(0.0, "other")
    mine = bench.begin(0.0)

    bench.end(mine, 9.0)

    assert bench.slots == 1
