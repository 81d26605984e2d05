"""How a run goes on that has begun: on other workers, under another strategy, with the same training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, Plan, ResolvedJob
from orchestrator.planning.schedule import schedule_of
from orchestrator.spec.job import JobSpec

MAY_CHANGE = (
    "scaling",
    "strategy",
    "checkpoint",
    "recovery",
    "environment",
    "training.epochs",
    "training.max_steps",
    "training.stop_early",
    "training.micro_batch_size",
    "training.recomputation",
    "objective.chunk_tokens",
    "training.compile",
    "training.log_every",
    "training.evaluate_every",
    "training.check_replicas_every",
)
"""What leaves the samples of each step, and the mathematics of it, as they are; and how long is trained."""


def revise(plan: Plan, job: JobSpec, counts: Counts, *, version: str) -> Plan:
    """The plan of a run's next launch.

    Args:
        plan: of the last launch.
        job: the last one's, changed.
        counts: of the plan's model.
        version: of this program.

    Raises:
        SpecError: it would train something else, or its numbers don't fit together.
    """
    before, after = plan.job.model_dump(mode="json"), job.model_dump(mode="json")
    for field in _differences(before, after):
        if not any(field == allowed or field.startswith(f"{allowed}.") for allowed in MAY_CHANGE):
            raise SpecError(
                f"{field} can't change in a run that has begun; these can: {', '.join(MAY_CHANGE)};"
                " submit a new run, which may start from this one's weights (initialize.weights)"
            )
    facts = DataFacts(train_samples=plan.train_samples or None, eval_samples=plan.eval_samples)
    made = make_plan(
        ResolvedJob.model_validate(dict(job)),
        facts,
        counts,
        plan.context.model_copy(update={"version": version}),
    )
    return made.model_copy(update={"notes": (*made.notes, *_length_notes(plan, made))})


def _length_notes(before: Plan, now: Plan) -> Iterator[str]:
    """What another length means for the learning rate, whose schedule is a function of the step and of all steps."""
    if before.total_steps == now.total_steps:
        return
    schedule = now.job.training.schedule
    was, becomes = (
        schedule_of(schedule, plan.total_steps)(min(before.total_steps, now.total_steps))
        for plan in (before, now)
    )
    yield (
        f"trained to step {now.total_steps} instead of {before.total_steps}: from here on the learning rate is that of a"
        f" run of {now.total_steps} steps, at step {min(before.total_steps, now.total_steps)} {becomes:.3g} of its peak"
        f" instead of {was:.3g}"
    )


def _differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Dotted names of fields that differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before.keys() | after.keys():
            yield from _differences(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    elif before != after:
        yield path
