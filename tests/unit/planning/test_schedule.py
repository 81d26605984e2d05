import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.schedule import learning_rate_factor
from orchestrator.spec.training import ScheduleSpec

KINDS = st.sampled_from(["constant", "linear", "cosine"])
RATIOS = st.floats(0, 1)


@pytest.mark.parametrize(
    ("kind", "warmup_steps", "final_ratio", "total_steps", "factors"),
    [
        ("constant", 0, 0.0, 3, {1: 1.0, 2: 1.0, 3: 1.0}),
        ("constant", 2, 0.5, 4, {1: 0.5, 2: 1.0, 3: 1.0, 4: 1.0}),
        ("linear", 0, 0.0, 4, {1: 0.75, 2: 0.5, 3: 0.25, 4: 0.0}),
        ("linear", 4, 0.2, 8, {1: 0.25, 3: 0.75, 4: 1.0, 5: 0.8, 6: 0.6, 7: 0.4, 8: 0.2}),
        ("linear", 3, 0.0, 4, {3: 1.0, 4: 0.0}),
        ("linear", 3, 0.0, 3, {1: 1 / 3, 2: 2 / 3, 3: 1.0}),
        ("cosine", 0, 0.0, 2, {1: 0.5, 2: 0.0}),
        ("cosine", 10, 0.1, 110, {1: 0.1, 10: 1.0, 60: 0.55, 110: 0.1}),
        ("cosine", 0, 0.0, 3, {1: 0.75, 2: 0.25, 3: 0.0}),
        ("cosine", 0, 0.5, 4, {1: 0.75 + 0.25 / math.sqrt(2), 2: 0.75, 4: 0.5}),
    ],
)
def test_factors(kind, warmup_steps, final_ratio, total_steps, factors):
    schedule = ScheduleSpec(kind=kind, warmup_steps=warmup_steps, final_ratio=final_ratio)
    told = {step: learning_rate_factor(schedule, step, total_steps) for step in factors}
    assert told == pytest.approx(factors)


@given(KINDS, st.integers(0, 20), RATIOS, st.integers(1, 60))
def test_a_factor_rises_while_warming_up_and_then_only_falls_to_its_end(
    kind, warmup_steps, final_ratio, total_steps
):
    schedule = ScheduleSpec(kind=kind, warmup_steps=min(warmup_steps, total_steps), final_ratio=final_ratio)
    factors = [learning_rate_factor(schedule, step, total_steps) for step in range(1, total_steps + 1)]
    rise, fall = factors[: schedule.warmup_steps], factors[max(0, schedule.warmup_steps - 1) :]
    assert rise == sorted(rise)
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(fall))
    assert all(0 < factor <= 1 for factor in rise)
    assert all(-1e-12 <= factor <= 1 for factor in factors)
    if kind != "constant" and schedule.warmup_steps < total_steps:
        assert factors[-1] == pytest.approx(final_ratio)
