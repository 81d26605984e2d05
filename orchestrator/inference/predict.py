"""Predictions for all rows of some files: each row once, whoever was killed on the way."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.inference.output import Output
from orchestrator.inference.pool import written
from orchestrator.inference.task import PredictTask
from orchestrator.planning.plan import Plan
from orchestrator.section import Section


class Predicted(Section):
    """What came of it."""

    run: str
    """The run that trained the model."""
    step: int
    """Of the checkpoint."""
    output: str
    """The folder."""
    parts: int
    """Its files."""
    parts_kept: int
    """Those that were there before."""
    rows: int
    """Rows of the files that were written now."""


def predict(
    plan: Plan, task: PredictTask, *, workers: int, on_part: Callable[[int, int], None] | None = None
) -> Predicted:
    """Write what is not there yet.

    Args:
        plan: of the run.
        task: what to write.
        workers: processes that hold the model. Their number changes no file.
        on_part: called with the files that are there and the files of all.

    Raises:
        SpecError: the folder holds something else.
        DataError: a row can't be read; with file and row.
        InfrastructureError: Ray, a worker or the storage failed.
    """
    output = Output(task)
    there = output.begin()
    missing = sorted(set(task.parts) - set(there))
    rows = 0
    if missing:
        for done, (_, count) in enumerate(written(plan, task, missing, min(workers, len(missing))), 1):
            rows += count
            if on_part is not None:
                on_part(len(there) + done, len(task.parts))
    output.complete()
    return Predicted(
        run=task.run_id,
        step=task.step,
        output=task.output,
        parts=len(task.parts),
        parts_kept=len(there),
        rows=rows,
    )
