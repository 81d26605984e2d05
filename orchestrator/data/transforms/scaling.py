"""Transforms that move and stretch numbers, and put them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.data.mends import FILL_OR_DROP
from orchestrator.data.transforms import Batch, Fitted, as_floats, sample_fault, tensor_of
from orchestrator.data.transforms.samples import ColumnSamples
from orchestrator.errors import DataError
from orchestrator.spec.transforms import Clip, Join, Log, Normalize, Quantile, Scale


class Moments:
    """Streaming mean and variance, merged batch by batch (Chan, Golub, LeVeque 1979), in float64."""

    def __init__(self, section: Normalize) -> None:
        self._section = section
        self._count = np.zeros(())
        self._mean = np.zeros(())
        self._squares = np.zeros(())

    def update(self, batch: Batch) -> None:
        """See one batch."""
        name = self._section.tensor
        values = tensor_of(batch, name, "normalize").astype(np.float64)
        # a label's gaps come this far only where the objective leaves them out
        if (missing := np.isnan(values)).any() and name != "label":
            raise sample_fault(
                f"has no value, so normalize has no mean; {FILL_OR_DROP}", batch, name, missing
            )
        if (infinite := np.isinf(values)).any():
            raise sample_fault(
                f"is infinite, so normalize has no mean; put {{kind: clip, tensor: {name}, low: ..., high: ...}} before"
                " it, or mend the row",
                batch,
                name,
                infinite,
            )
        axes = _reduced_axes(self._section, values.ndim)
        if not values.size:
            return
        count = np.asarray((~missing).sum(axis=axes, keepdims=True), dtype=np.float64)
        values[missing] = 0.0
        mean = values.sum(axis=axes, keepdims=True) / np.maximum(count, 1)
        apart = values - mean
        apart[missing] = 0.0
        squares = (apart**2).sum(axis=axes)
        mean, count = mean.reshape(squares.shape), count.reshape(squares.shape)
        total = self._count + count
        delta = mean - self._mean
        self._squares = self._squares + squares + delta**2 * (self._count * count / np.maximum(total, 1))
        self._mean = self._mean + delta * (count / np.maximum(total, 1))
        self._count = total

    def result(self) -> dict[str, Any]:
        """Mean and standard deviation; a deviation of zero becomes one, so that constants come out as zero."""
        if (self._count == 0).any():
            raise DataError(
                f"data.transforms: normalize finds a column of {self._section.tensor!r} without any value; leave it out of"
                " data.columns"
            )
        deviation = np.sqrt(self._squares / self._count)
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
        """Floats, of the precision of what came in."""
        values = _table(batch, section.tensor, "normalize")
        kind = np.result_type(values.dtype, np.float32)
        mean = _spread(np.asarray(fitted["mean"], dtype=kind), section, values)
        deviation = _spread(np.asarray(fitted["deviation"], dtype=kind), section, values)
        out = np.subtract(values, mean, dtype=kind)
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
        """Floats, of the precision of what came in."""
        values = _table(batch, section.tensor, "scale")
        kind = np.result_type(values.dtype, np.float32)
        out = np.multiply(values, kind.type(section.factor), dtype=kind)
        out += kind.type(section.offset)
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


class _Quantiles:
    """Quantiles of each column."""

    def __init__(self, section: Clip | Quantile, shares: Sequence[float]) -> None:
        self._section, self._shares = section, shares
        self._samples = ColumnSamples()

    def update(self, batch: Batch) -> None:
        """See one batch."""
        values = _table(batch, self._section.tensor, self._section.kind)
        self._samples.update(batch["sample_id"], values.reshape(len(values), -1))

    def result(self) -> dict[str, Any]:
        """(shares, columns)."""
        quantiles = self._samples.quantiles(self._shares)
        if np.isnan(quantiles).any():
            raise DataError(
                f"data.transforms: {self._section.kind} finds a column of {self._section.tensor!r} without any value;"
                " leave it out of data.columns"
            )
        return {"quantiles": quantiles.tolist()}


class ClipKind:
    """Values brought between bounds."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Clip) -> _Quantiles | None:
        """The columns' own bounds, where they are asked for."""
        return _Quantiles(section, (section.quantile, 1 - section.quantile)) if section.quantile else None

    def sizes(self, section: Clip, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Clip, fitted: Fitted, batch: Batch) -> Batch:
        """Floats; a missing value stays missing."""
        values = as_floats(_table(batch, section.tensor, "clip"))
        if section.quantile:
            bounds = np.asarray(fitted["quantiles"], dtype=values.dtype)
            low, high = (bound.reshape(values.shape[1:]) for bound in bounds)
            return {**batch, section.tensor: np.clip(values, low, high)}
        return {**batch, section.tensor: np.clip(values, section.low, section.high)}


class LogKind:
    """The logarithm of 1 + |x|, signed."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Log) -> None:
        """Nothing to learn."""

    def sizes(self, section: Log, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Log, fitted: Fitted, batch: Batch) -> Batch:
        """Floats; a missing value stays missing."""
        values = as_floats(_table(batch, section.tensor, "log"))
        return {**batch, section.tensor: np.sign(values) * np.log1p(np.abs(values))}


class QuantileKind:
    """Values to their place among the training values."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Quantile) -> _Quantiles:
        """The landmarks."""
        return _Quantiles(section, np.linspace(0, 1, section.quantiles).tolist())

    def sizes(self, section: Quantile, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Quantile, fitted: Fitted, batch: Batch) -> Batch:
        """Float64; a missing value stays missing."""
        values = _table(batch, section.tensor, "quantile")
        columns, marks = values.reshape(len(values), -1).astype(np.float64), np.asarray(fitted["quantiles"])
        shares = np.linspace(0, 1, len(marks))
        out = np.empty_like(columns)
        for place in range(columns.shape[1]):
            column, known = columns[:, place], marks[:, place]
            # From both sides, so that of a value that many samples have the middle of its places comes out.
            out[:, place] = 0.5 * (
                np.interp(column, known, shares) - np.interp(-column, -known[::-1], -shares[::-1])
            )
        if section.output == "normal":
            from scipy.special import ndtri

            out = ndtri(np.clip(out, _LEAST_SHARE, 1 - _LEAST_SHARE))
        return {**batch, section.tensor: out.reshape(values.shape)}


_LEAST_SHARE = 1e-7
"""Keeps the normal distribution's ends finite: 5.2 deviations."""


class JoinKind:
    """Columns of several tensors in one."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Join) -> None:
        """Nothing to learn."""

    def sizes(self, section: Join, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Join, fitted: Fitted, batch: Batch) -> Batch:
        """Floats (B, columns); the appended tensors are gone."""
        names = section.reads if section.tensor in batch else section.append
        parts = [_table(batch, name, "join") for name in names]
        joined = np.concatenate([as_floats(part.reshape(len(part), -1)) for part in parts], axis=1)
        rest = {name: values for name, values in batch.items() if name not in section.append}
        return {**rest, section.tensor: joined}


def _table(batch: Batch, name: str, kind: str) -> np.ndarray:
    """The named tensor, of numbers. Raises DataError where it isn't."""
    values = tensor_of(batch, name, kind)
    if values.dtype.kind not in "fiub":
        raise DataError(
            f"data.transforms: {kind} needs numbers, but {name!r} holds words or dates; put date or encode before it"
        )
    return values
