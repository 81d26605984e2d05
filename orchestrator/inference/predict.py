"""Predictions for all rows of some files: each row once, whoever was killed on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from orchestrator.inference.output import Output
from orchestrator.inference.results import Predicted
from orchestrator.inference.task import PredictTask

Write = Callable[[Sequence[int]], Iterator[tuple[int, int]]]
"""Writes some parts of a task, whatever worker writes which; gives each with its rows as it is done."""


def predict(
    task: PredictTask, write: Write, *, on_part: Callable[[int, int], None] | None = None
) -> Predicted:
    """Write what is not there yet.

    Args:
        task: what to write.
        write: by whom; that changes no file.
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
        for done, (_, count) in enumerate(write(missing), 1):
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
