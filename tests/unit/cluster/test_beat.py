from ollama_wrap import tasks
from ollama_wrap.cluster.beat import Beat
from tests.fakes.clock import FakeClock, settle


async def turns(beat: Beat, done: list[str]) -> None:
    while True:
        done.append("turn")
        await beat.rest(2.0)


async def test_loop_turns_in_the_given_rhythm() -> None:
    clock, done = FakeClock(), list[str]()
    loop = tasks.start(turns(Beat(clock, 0.1), done), "loop")

    await clock.run(6.9)

    assert len(done) == 4
    await tasks.stop(loop)


async def test_ring_ends_the_pause_at_once() -> None:
    clock, done = FakeClock(), list[str]()
    beat = Beat(clock, 0.1)
    loop = tasks.start(turns(beat, done), "loop")
    await clock.run(1.0)

    beat.ring()
    await settle()

    assert len(done) == 2
    await tasks.stop(loop)


async def test_ring_while_the_loop_works_is_kept() -> None:
    clock, done = FakeClock(), list[str]()
    beat = Beat(clock, 0.1)
    beat.ring()
    loop = tasks.start(turns(beat, done), "loop")

    await clock.run(0.2)

    assert len(done) == 2
    await tasks.stop(loop)


async def test_storm_of_rings_turns_no_faster_than_allowed() -> None:
    clock, done = FakeClock(), list[str]()
    beat = Beat(clock, 0.1)
    loop = tasks.start(turns(beat, done), "loop")

    for _ in range(1000):
        beat.ring()
        await clock.run(0.001)

    assert 9 <= len(done) <= 11
    await tasks.stop(loop)


async def test_stopped_pause_leaves_nothing_behind() -> None:
    clock, done = FakeClock(), list[str]()
    before = tasks.running()
    loop = tasks.start(turns(Beat(clock, 0.1), done), "loop")
    await clock.run(1.0)

    await tasks.stop(loop)
    await settle()

    assert tasks.running() == before
