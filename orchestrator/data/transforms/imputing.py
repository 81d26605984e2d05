"""Transforms of missing values: ``impute`` fills them in, ``drop`` refuses what preparation has not left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.transforms import Batch, Fitted, as_floats, tensor_of
from orchestrator.data.transforms.samples import ColumnSamples
from orchestrator.errors import DataError
from orchestrator.spec.transforms import Drop, Impute

MISSING_CATEGORY = "<missing>"


def missing_values(values: np.ndarray) -> np.ndarray:
    """Which values are missing: NaN, no date, no text. Boolean, of the same shape."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "M":
        return np.isnat(values)
    if values.dtype == object:
        flat = pa.array(values.reshape(-1), from_pandas=True)
        return np.asarray(pc.is_null(flat, nan_is_null=True)).reshape(values.shape)
    return np.zeros(values.shape, dtype=bool)


class _Fillings:
    """What each column is filled with, and which columns have gaps."""

    def __init__(self, section: Impute) -> None:
        self._section = section
        self._samples = ColumnSamples()
        self._gaps: Any = False
        self._totals: Any = 0.0
        self._counts: Any = 0

    def update(self, batch: Batch) -> None:
        """See one batch."""
        values = tensor_of(batch, self._section.tensor, "impute")
        columns = values.reshape(len(values), -1)
        missing = missing_values(columns)
        self._gaps = self._gaps | missing.any(axis=0)
        if self._section.by in ("constant", "category"):
            return
        if values.dtype.kind not in "fiub":
            raise DataError(
                f"data.transforms: impute by {self._section.by} needs numbers, but {self._section.tensor!r} holds"
                " words or dates; impute words by: category, and dates after they are numbers"
            )
        self._counts = self._counts + (~missing).sum(axis=0)
        if self._section.by == "mean":
            self._totals = self._totals + np.where(missing, 0.0, columns).sum(axis=0, dtype=np.float64)
        else:
            self._samples.update(batch["sample_id"], columns)

    def result(self) -> dict[str, Any]:
        """A value for each column, and the places of those with gaps."""
        gaps = np.flatnonzero(self._gaps).tolist()
        if self._section.by in ("constant", "category"):
            return {"gaps": gaps}
        if (empty := np.flatnonzero(self._counts == 0)).size:
            raise DataError(
                f"data.transforms: column {int(empty[0]) + 1} of {self._section.tensor!r} has no value in any training"
                " sample, so there is nothing to fill it with; leave it out of data.columns"
            )
        if self._section.by == "mean":
            return {"gaps": gaps, "values": (self._totals / self._counts).tolist()}
        return {"gaps": gaps, "values": self._samples.quantiles([0.5])[0].tolist()}


class ImputeKind:
    """Missing values filled in."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Impute) -> _Fillings:
        """What fills each column."""
        return _Fillings(section)

    def sizes(self, section: Impute, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Impute, fitted: Fitted, batch: Batch) -> Batch:
        """Of the type that came in; numbers as floats."""
        values = tensor_of(batch, section.tensor, "impute")
        columns = values.reshape(len(values), -1)
        missing = missing_values(columns)
        if values.dtype == object:
            fill: Any = MISSING_CATEGORY if section.by == "category" else section.value
            filled = columns.copy()
            filled[missing] = fill
            return {**batch, section.tensor: filled.reshape(values.shape)}
        if section.by == "category" or isinstance(section.value, str) or values.dtype.kind not in "fiub":
            raise DataError(
                f"data.transforms: impute fills {section.tensor!r} with a word, but it holds numbers or dates;"
                " give by: median, mean or constant"
            )
        numbers = as_floats(columns)
        filled = np.where(
            missing, np.asarray(fitted.get("values", section.value), dtype=numbers.dtype), numbers
        )
        if section.indicator and fitted["gaps"]:
            filled = np.concatenate([filled, missing[:, fitted["gaps"]].astype(numbers.dtype)], axis=1)
            return {**batch, section.tensor: filled}
        return {**batch, section.tensor: filled.reshape(values.shape)}


class DropKind:
    """Rows without missing values: preparation leaves the others out, a trained model refuses them."""

    training_only = False
    keeps_type = True

    def fitter(self, section: Drop) -> None:
        """Nothing to learn."""

    def sizes(self, section: Drop, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Drop, fitted: Fitted, batch: Batch) -> Batch:
        """As it came. Raises DataError where a value is missing."""
        values = tensor_of(batch, section.tensor, "drop")
        missing = missing_values(values).reshape(len(values), -1).any(axis=1)
        if missing.any():
            raise DataError(
                f"row {int(np.flatnonzero(missing)[0])} has a missing value in {section.tensor!r}; rows like it were"
                " left out in training, so the model has no answer to it"
            )
        return batch
