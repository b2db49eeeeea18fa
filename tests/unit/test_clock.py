import asyncio
import re
import time

from ollama_wrap.clock import SystemClock


def test_time_is_the_machine_s() -> None:
    clock = SystemClock()

    assert abs(clock.now() - time.time()) < 5
    assert abs(clock.monotonic() - time.monotonic()) < 5


async def test_sleep_lets_others_run_and_comes_back() -> None:
    ran: list[str] = []
    asyncio.get_running_loop().call_soon(ran.append, "another")

    await SystemClock().sleep(0)

    assert ran == ["another"]


def test_wall_time_is_read_as_a_time_of_day() -> None:
    noon = time.mktime((2026, 3, 1, 12, 5, 9, 0, 0, -1))

    assert SystemClock().local_time(noon) == "12:05"
    assert re.fullmatch(r"\d\d:\d\d", SystemClock().local_time(0.0))
