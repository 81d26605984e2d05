import pytest

from orchestrator.driver import seconds_between_polls


@pytest.mark.parametrize(("workers", "seconds"), [(1, 0.2), (100, 0.2), (1000, 1.4), (10_000, 14.0)])
def test_the_controller_looks_less_often_where_there_is_more_to_look_at(workers, seconds):
    assert seconds_between_polls(workers) == pytest.approx(seconds)
