"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.own_code import described, load_factory
from orchestrator.spec.training import ScheduleSpec

_FIELD = "training.schedule.factory"
_ASKED = 10_000
"""Steps that a function of a person's own is asked about before anything starts."""


def schedule_of(schedule: ScheduleSpec, total_steps: int) -> Callable[[int], float]:
    """What the peak learning rate is multiplied with, as a function of the step.

    Raises:
        SpecError: a function of a person's own can't be imported. So does the one that is returned where theirs fails, or
            gives no number of 0 or more.
    """
    if schedule.factory is None:
        return partial(learning_rate_factor, schedule, total_steps=total_steps)
    own = load_factory(schedule.factory, _FIELD)
    return partial(_asked, own, schedule.factory, schedule.config, total_steps=total_steps)


def check_schedule(schedule: ScheduleSpec, total_steps: int) -> None:
    """Raises SpecError where a function of a person's own is no schedule: not for each step a number, the same each time."""
    if schedule.factory is None:
        return
    factor_at = schedule_of(schedule, total_steps)
    steps = {1 + number * (total_steps - 1) // _ASKED for number in range(_ASKED)} | {total_steps}
    first, again = ([factor_at(step) for step in order] for order in (sorted(steps), sorted(steps)[::-1]))
    if first != again[::-1]:
        raise SpecError(
            f"{_FIELD}: {schedule.factory} gives another factor for the same step when it is asked again; it must follow from"
            " its arguments alone, or a resumed run would not be the same"
        )


def learning_rate_factor(schedule: ScheduleSpec, step: int, total_steps: int) -> float:
    """What the peak learning rate is multiplied with at ``step`` (from 1 to ``total_steps``), by a shape of ours.

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


def _asked(
    own: Callable[..., Any], name: str, config: dict[str, Any], step: int, *, total_steps: int
) -> float:
    try:
        factor = own(step, total_steps, **config)
    except Exception as error:  # whatever a person's function raises
        raise SpecError(f"{_FIELD}: {name} failed at step {step}: {described(error)}") from error
    if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
        raise SpecError(
            f"{_FIELD}: {name} gave {str(factor)[:60]} at step {step}; what the peak learning rate is multiplied with is a"
            " number of 0 or more"
        )
    return float(factor)
