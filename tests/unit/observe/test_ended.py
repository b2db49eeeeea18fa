import pytest

from tests.unit.observe.samples import ended


def test_time_per_token_leaves_out_the_wait_for_the_first() -> None:
    assert ended(first_byte=0.5, duration=2.5, tokens=11).per_token == pytest.approx(0.2)


@pytest.mark.parametrize("changes", [{"first_byte": None}, {"tokens": None}, {"tokens": 1}])
def test_time_per_token_is_not_invented(changes: dict[str, object]) -> None:
    assert ended(**changes).per_token is None


@pytest.mark.parametrize("status, level", [(200, "info"), (499, "info"), (500, "warning")])
def test_server_faults_are_warnings(status: int, level: str) -> None:
    assert ended(status=status).level == level
