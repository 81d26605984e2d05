"""Transforms that move and stretch numbers: ``normalize`` and ``scale``."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.data.transforms import Batch, Fitted, tensor_of
from orchestrator.errors import DataError
from orchestrator.spec.transforms import Normalize, Scale


class Moments:
    """Streaming mean and variance, merged batch by batch (Chan, Golub, LeVeque 1979), in float64."""

    def __init__(self, section: Normalize) -> None:
        self._section = section
        self._count = 0
        self._mean = np.zeros(())
        self._squares = np.zeros(())

    def update(self, batch: Batch) -> None:
        """See one batch."""
        values = tensor_of(batch, self._section.tensor, "normalize").astype(np.float64)
        if not np.isfinite(values).all():
            bad = int(batch["sample_id"][~np.isfinite(values).reshape(len(values), -1).all(axis=1)][0])
            raise DataError(
                f"data.transforms: normalize can't use {self._section.tensor!r}: sample {bad} has a missing or"
                " infinite value; mend or drop that row"
            )
        axes = _reduced_axes(self._section, values.ndim)
        count = int(np.prod([values.shape[axis] for axis in axes]))
        if not count:
            return
        mean = values.mean(axis=axes, keepdims=True)
        squares = ((values - mean) ** 2).sum(axis=axes)
        mean = mean.reshape(squares.shape)
        total = self._count + count
        delta = mean - self._mean
        self._squares = self._squares + squares + delta**2 * (self._count * count / total)
        self._mean = self._mean + delta * (count / total)
        self._count = total

    def result(self) -> dict[str, Any]:
        """Mean and standard deviation; a deviation of zero becomes one, so that constants come out as zero."""
        deviation = np.sqrt(self._squares / max(1, self._count))
        deviation = np.where(deviation > 0, deviation, 1.0)
        return {"mean": self._mean.tolist(), "deviation": deviation.tolist()}


class NormalizeKind:
    """Subtract the mean, divide by the standard deviation."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Normalize) -> Moments:
        """Streaming moments."""
        return Moments(section)

    def sizes(self, section: Normalize, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Normalize, fitted: Fitted, batch: Batch) -> Batch:
        """Float32, whatever came in."""
        values = tensor_of(batch, section.tensor, "normalize")
        mean = _spread(np.asarray(fitted["mean"], dtype=np.float32), section, values)
        deviation = _spread(np.asarray(fitted["deviation"], dtype=np.float32), section, values)
        out = np.subtract(values, mean, dtype=np.float32)
        np.divide(out, deviation, out=out)
        return {**batch, section.tensor: out}


class ScaleKind:
    """Multiply, then add."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Scale) -> None:
        """Nothing to learn."""

    def sizes(self, section: Scale, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Scale, fitted: Fitted, batch: Batch) -> Batch:
        """Float32, whatever came in."""
        values = tensor_of(batch, section.tensor, "scale")
        out = np.multiply(values, np.float32(section.factor), dtype=np.float32)
        out += np.float32(section.offset)
        return {**batch, section.tensor: out}


def _reduced_axes(section: Normalize, dimensions: int) -> tuple[int, ...]:
    if section.per == "element":
        return (0,)
    if section.per == "channel" and dimensions > 2:
        return (0, *range(2, dimensions))
    # A row of features has no channels but itself: each feature is one.
    return (0,) if section.per == "channel" else tuple(range(dimensions))


def _spread(statistic: np.ndarray, section: Normalize, values: np.ndarray) -> np.ndarray:
    """The statistic with axes of one where it was reduced, so that it broadcasts over a batch."""
    reduced = _reduced_axes(section, values.ndim)
    shape = tuple(1 if axis in reduced else size for axis, size in enumerate(values.shape))
    return statistic.reshape(shape)
