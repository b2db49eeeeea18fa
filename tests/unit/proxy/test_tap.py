"""What is seen of a body that passes."""

import pytest

from ollama_wrap.proxy.tap import TAIL, Tap
from tests.fakes.clock import FakeClock


def test_first_byte_is_timed_once() -> None:
    clock = FakeClock(start=5.0)
    tap = Tap(clock.monotonic, 0)

    tap.feed([b"a"])
    clock.advance(3.0)
    tap.feed([b"b", b"c"])

    assert (tap.first, tap.total, tap.several) == (5.0, 3, True)


@pytest.mark.parametrize("pieces", [1, 2])
def test_whether_it_came_in_several_pieces_is_known_of_a_long_body_too(pieces: int) -> None:
    tap = Tap(FakeClock().monotonic, 0)

    tap.feed([b"x" * 5 * TAIL] * pieces)
    tap.tail()

    assert tap.several is (pieces > 1)


@pytest.mark.parametrize("size", [1, 100, TAIL, 1000])
def test_tail_is_the_end_of_what_passed(size: int) -> None:
    tap = Tap(FakeClock().monotonic, 0)
    text = bytes(number % 251 for number in range(6 * TAIL))
    for start in range(0, len(text), size):
        tap.feed([text[start : start + size]])

    tail = tap.tail()

    assert TAIL <= len(tail) <= 4 * TAIL
    assert text.endswith(tail)


def test_little_of_a_long_body_is_kept() -> None:
    tap = Tap(FakeClock().monotonic, 0)

    for _ in range(1000):
        tap.feed([b"x" * 1024])

    assert sum(map(len, tap.body)) <= 4 * TAIL + 1024
    assert tap.whole() is None


def test_body_within_its_limit_is_kept_whole() -> None:
    tap = Tap(FakeClock().monotonic, 8 * TAIL)
    for _ in range(8):
        tap.feed([b"x" * TAIL])
    tap.tail()
    assert tap.whole() == b"x" * 8 * TAIL

    tap.feed([b"y"])

    assert tap.whole() is None
