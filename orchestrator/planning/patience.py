"""When training no longer helps: evaluations in a row that gave no better value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.spec.training import StopEarlySpec


class Patience:
    """What an evaluation metric came to so far. Its state goes into checkpoints, so that a resumed run waits as long."""

    def __init__(self, spec: StopEarlySpec | None, state: Mapping[str, Any]) -> None:
        """
        Args:
            spec: the job's; None: training is never enough.
            state: as ``state`` gave it; empty where nothing was evaluated yet.
        """
        self._spec = spec
        self._best: float | None = state.get("best")
        self._without = int(state.get("without", 0))

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self._best, "without": self._without}

    def note(self, metrics: Mapping[str, float]) -> None:
        """Take an evaluation's metrics in. A value that is no finite number is no better one."""
        if self._spec is None:
            return
        value = metrics.get(self._spec.metric, math.nan)
        if self._is_better(value):
            self._best, self._without = value, 0
        else:
            self._without += 1

    def _is_better(self, value: float) -> bool:
        assert self._spec is not None
        if not math.isfinite(value):
            return False
        if self._best is None:
            return True
        gain = self._best - value if self._spec.mode == "min" else value - self._best
        return gain > self._spec.min_delta

    def end(self) -> str:
        """Why training is enough, for a person; empty where it is not."""
        if self._spec is None or self._without < self._spec.patience:
            return ""
        best = "never a number" if self._best is None else f"{self._best:.6g} at best"
        return f"{self._spec.metric} got no better in {self._without} evaluations ({best})"
