"""The one place where the training loop waits for its device."""

from __future__ import annotations

from torch import Tensor


def read(values: Tensor) -> list[float]:
    """A vector's numbers on the host. Called at logs, evaluations and saves; a step between them calls it never."""
    numbers: list[float] = values.tolist()
    return numbers
