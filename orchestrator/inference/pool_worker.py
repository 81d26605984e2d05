"""One actor of the pool, and how failures travel from it to whoever asked."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np

from orchestrator import errors
from orchestrator.errors import InfrastructureError, TrainwrightError
from orchestrator.inference.task import PredictTask
from orchestrator.storage.faults import first_line


class PoolWorker:
    """An actor of the pool: loads the model once. A failure is one of its answers, since of what its functions raise Ray
    Data hands on the text alone.
    """

    def __init__(self, task: str) -> None:
        """``task``: as JSON."""
        self._task = task

    @cached_property
    def _writer(self) -> Any:
        from orchestrator.inference.part_writer import PartWriter

        return PartWriter(PredictTask.model_validate_json(self._task))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Write the parts ``part`` (N,); gives their ``rows``, and what ``failed`` as JSON, which is empty for most."""
        parts = batch["part"].tolist()
        try:
            rows, failed = [self._writer.write(part) for part in parts], ""
        except Exception as error:
            rows, failed = [0] * len(parts), failure_to_json(error)
        return {
            "part": batch["part"],
            "rows": np.array(rows),
            "failed": np.array([failed] * len(parts), dtype=object),
        }


def failure_to_json(error: Exception) -> str:
    """An error by kind and message."""
    public = (one.__name__ for one in type(error).__mro__ if one.__module__ == errors.__name__)
    if kind := next(public, ""):
        return json.dumps({"kind": kind, "message": str(error)})
    message = f"predictions failed: {type(error).__name__}: {first_line(error)}"
    return json.dumps({"kind": InfrastructureError.__name__, "message": message})


def json_to_failure(failed: str) -> TrainwrightError:
    """The same as an error of ours."""
    content = json.loads(failed)
    kind: type[TrainwrightError] = getattr(errors, content["kind"])
    return kind(content["message"])
