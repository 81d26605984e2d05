import pytest

from orchestrator.planning.schedule import learning_rate_factor
from orchestrator.spec.job import ScheduleSpec


def test_schedule_shapes():
    cosine = ScheduleSpec(kind="cosine", warmup_steps=10, final_ratio=0.1)
    assert learning_rate_factor(cosine, 1, 110) == pytest.approx(0.1)
    assert learning_rate_factor(cosine, 10, 110) == 1.0
    assert learning_rate_factor(cosine, 60, 110) == pytest.approx(0.55)
    assert learning_rate_factor(cosine, 110, 110) == pytest.approx(0.1)
    linear = ScheduleSpec(kind="linear", final_ratio=0.0)
    assert learning_rate_factor(linear, 25, 100) == pytest.approx(0.75)
    assert learning_rate_factor(ScheduleSpec(kind="constant"), 99, 100) == 1.0
