import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_wrap.config.groups import Health as Rules
from ollama_wrap.nodes.health import Health, NodeState
from tests.fakes.nodes import health

WALL = 1_700_000_000.0


def probed(start: Health, oks: int = 0, bads: int = 0, *, at: float = 0.0) -> Health:
    """Good probes, then bad ones that met no open port, half a second apart."""
    for _ in range(oks):
        start, at = start.probed_ok(at, WALL + at, 0.01), at + 0.5
    for _ in range(bads):
        start, at = start.probed_bad(at, WALL + at, "refused"), at + 0.5
    return start


@pytest.mark.parametrize(
    "state, oks, bads, after",
    [
        (NodeState.JOINING, 1, 0, NodeState.JOINING),
        (NodeState.JOINING, 0, 2, NodeState.JOINING),
        (NodeState.JOINING, 0, 3, NodeState.DOWN),
        (NodeState.UP, 5, 0, NodeState.UP),
        (NodeState.UP, 0, 1, NodeState.SUSPECT),
        (NodeState.UP, 0, 2, NodeState.SUSPECT),
        (NodeState.UP, 0, 3, NodeState.DOWN),
        (NodeState.SUSPECT, 1, 0, NodeState.UP),
        (NodeState.SUSPECT, 0, 3, NodeState.DOWN),
        (NodeState.WARMING, 0, 1, NodeState.SUSPECT),
        (NodeState.DOWN, 1, 0, NodeState.DOWN),
        (NodeState.DOWN, 2, 0, NodeState.WARMING),
        (NodeState.DOWN, 0, 1, NodeState.DOWN),
    ],
)
def test_probes_move_the_state(state: NodeState, oks: int, bads: int, after: NodeState) -> None:
    assert probed(health(state), oks, bads).state is after


def test_node_is_up_after_two_good_probes() -> None:
    first = Health().probed_ok(5.0, WALL, 0.01)
    second = first.probed_ok(6.0, WALL + 1, 0.01)

    assert (first.state, first.ever_answered, first.served) == (NodeState.JOINING, True, False)
    assert (second.state, second.since, second.since_wall) == (NodeState.UP, 6.0, WALL + 1)
    assert (second.last_seen, second.last_seen_wall) == (6.0, WALL + 1)


def test_good_probe_ends_the_row_of_bad_ones() -> None:
    once_bad = probed(health(NodeState.UP), bads=2)

    again = probed(once_bad.probed_ok(2.0, WALL, 0.01), bads=2)

    assert once_bad.error == "refused"
    assert again.state is NodeState.SUSPECT


def test_node_that_came_back_warms_up_for_half_a_minute() -> None:
    warming = probed(health(NodeState.DOWN), oks=2)

    assert warming.since == 0.5
    assert warming.probed_ok(30.4, WALL, 0.01).state is NodeState.WARMING
    assert warming.probed_ok(30.5, WALL, 0.01).state is NodeState.UP
    assert warming.warmth(0.5) == pytest.approx(0.1)
    assert warming.warmth(15.5) == pytest.approx(0.55)
    assert warming.warmth(99.0) == 1.0
    assert health(NodeState.UP).warmth(0.0) == 1.0


def test_warming_that_is_switched_off_is_over_at_once() -> None:
    rules = Rules.model_validate({"warming": "0"})
    warming = Health(probed=NodeState.WARMING, rules=rules)

    assert warming.warmth(0.0) == 1.0
    assert warming.probed_ok(0.0, WALL, 0.01).state is NodeState.UP


def test_port_that_opens_without_an_answer_is_a_start() -> None:
    down = probed(health(NodeState.UP), bads=3)

    starting = down.probed_bad(10.0, WALL, "timeout", accepted=True)

    assert starting.state is NodeState.JOINING
    assert starting.probed_bad(129.0, WALL, "timeout", accepted=True).state is NodeState.JOINING
    assert starting.probed_bad(130.0, WALL, "timeout", accepted=True).state is NodeState.DOWN
    assert probed(starting, oks=2).state is NodeState.WARMING


def test_process_that_stops_with_its_port_open_is_down() -> None:
    stopped = probed(Health(), oks=2)
    for at in (10.0, 12.0, 14.0):
        stopped = stopped.probed_bad(at, WALL, "timeout", accepted=True)

    assert stopped.state is NodeState.DOWN
    assert stopped.probed_bad(16.0, WALL, "timeout", accepted=True).state is NodeState.DOWN


@pytest.mark.parametrize(
    "state, after",
    [
        (NodeState.UP, NodeState.SUSPECT),
        (NodeState.WARMING, NodeState.SUSPECT),
        (NodeState.JOINING, NodeState.JOINING),
        (NodeState.DOWN, NodeState.DOWN),
    ],
)
def test_failed_call_puts_a_node_in_doubt(state: NodeState, after: NodeState) -> None:
    assert health(state).traffic_failed(2_000.0, WALL).state is after


def test_drain_shows_until_the_node_is_down() -> None:
    drained = health(NodeState.UP).draining(True, 5.0, WALL)

    assert (drained.state, drained.since) == (NodeState.DRAINING, 5.0)
    assert drained.draining(True, 6.0, WALL) is drained
    assert probed(drained, bads=3).state is NodeState.DOWN
    assert drained.draining(False, 7.0, WALL).state is NodeState.UP


def test_node_whose_circuit_closed_starts_slowly() -> None:
    assert health(NodeState.UP).warmed_again(5.0, WALL).state is NodeState.WARMING
    assert health(NodeState.SUSPECT).warmed_again(5.0, WALL).state is NodeState.SUSPECT


@pytest.mark.parametrize(
    "state, fails, oks, after, spread, seconds",
    [
        (NodeState.UP, 0, 3, 0.0, 0.0, 1.6),
        (NodeState.UP, 0, 3, 0.0, 1.0, 2.4),
        (NodeState.WARMING, 0, 3, 0.0, 0.5, 2.0),
        (NodeState.UP, 1, 0, 0.0, 0.5, 0.5),
        (NodeState.SUSPECT, 0, 0, 0.0, 0.5, 0.5),
        (NodeState.JOINING, 0, 1, 0.0, 0.5, 0.5),
        (NodeState.DOWN, 3, 0, 599.0, 0.5, 2.0),
        (NodeState.DOWN, 3, 0, 600.0, 0.5, 30.0),
        (NodeState.DOWN, 0, 1, 600.0, 0.5, 0.5),
    ],
)
def test_next_probe_comes_sooner_in_doubt_and_later_in_sleep(
    state: NodeState, fails: int, oks: int, after: float, spread: float, seconds: float
) -> None:
    watched = Health(probed=state, since=100.0, fails=fails, oks=oks)

    assert watched.next_probe_in(100.0 + after, spread) == pytest.approx(seconds)


def test_latency_is_smoothed() -> None:
    first = Health().probed_ok(0.0, WALL, 1.0)

    assert first.latency == 1.0
    assert first.probed_ok(2.0, WALL, 2.0).latency == pytest.approx(1.3)


@given(st.lists(st.sampled_from(["ok", "refused", "silent", "traffic"]), max_size=60))
def test_three_bad_probes_in_a_row_are_never_up_and_two_good_ones_never_down(
    events: list[str],
) -> None:
    watched, now = Health(), 0.0
    for event in events:
        now += 2.0
        if event == "ok":
            watched = watched.probed_ok(now, WALL, 0.01)
        elif event == "traffic":
            watched = watched.traffic_failed(now, WALL)
        else:
            watched = watched.probed_bad(now, WALL, event, accepted=event == "silent")

        if watched.fails >= 3:
            assert watched.state in {NodeState.DOWN, NodeState.JOINING}
        if watched.oks >= 2 and event == "ok":
            assert watched.state in {NodeState.UP, NodeState.WARMING}
        assert watched.since <= now
