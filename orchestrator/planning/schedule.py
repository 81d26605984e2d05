"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from orchestrator.spec.job import ScheduleSpec


def learning_rate_factor(schedule: ScheduleSpec, step: int, total_steps: int) -> float:
    """What the peak learning rate is multiplied with at ``step`` (from 1 to ``total_steps``).

    Linear rise over ``warmup_steps``; then constant, or down to ``final_ratio`` in a line or half a cosine
    (Loshchilov & Hutter 2016, arXiv:1608.03983, without restarts).
    """
    if step <= schedule.warmup_steps:
        return step / schedule.warmup_steps
    if schedule.kind == "constant":
        return 1.0
    done = (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps)
    fall = done if schedule.kind == "linear" else 0.5 * (1 - math.cos(math.pi * done))
    return 1.0 - (1.0 - schedule.final_ratio) * fall
