import pytest

from orchestrator.checkpoint import Ranking


@pytest.mark.parametrize(("mode", "first"), [("min", (4, 0.5)), ("max", (3, 0.9))])
def test_the_first_is_the_best_so_far_and_of_equals_the_newer(mode, first):
    ranking = Ranking(best=2, metric="val/loss", mode=mode)
    assert ranking.first() is None
    for step, value in ((1, 0.7), (2, 0.5), (3, 0.9), (4, 0.5), (5, float("nan"))):
        ranking.add(step, {"val/loss": value})
    ranking.add(6, {})
    assert ranking.first() == first
