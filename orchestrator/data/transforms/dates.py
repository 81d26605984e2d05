"""Transform of dates and times: ``date``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.transforms import Batch, Fitted, tensor_of
from orchestrator.errors import DataError
from orchestrator.spec.transforms import Date

_MICROSECONDS_PER_DAY = 86_400e6
_PERIODS = {"month": 12, "day": 31, "weekday": 7, "hour": 24, "minute": 60}
_FIRST = {"month": 1, "day": 1}


class DateKind:
    """Dates to the named parts."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Date) -> None:
        """Nothing to learn."""

    def sizes(self, section: Date, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Date, fitted: Fitted, batch: Batch) -> Batch:
        """float64 (B, columns times numbers of the parts); NaN where a date is missing."""
        values = tensor_of(batch, section.tensor, "date")
        columns = values.reshape(len(values), -1)
        numbers = [
            number
            for place in range(columns.shape[1])
            for part in section.parts
            for number in _numbers(_timestamps(columns[:, place], section), part, section.cyclic)
        ]
        return {**batch, section.tensor: np.stack(numbers, axis=1)}


def _timestamps(values: np.ndarray, section: Date) -> pa.Array:
    if values.dtype.kind == "M":
        return pa.array(values.astype("datetime64[us]"))
    try:
        texts = pa.array(values, type=pa.string(), from_pandas=True)
    except pa.ArrowException:
        raise DataError(
            f"data.transforms: date can't read {section.tensor!r}: it holds numbers, no dates or texts"
        ) from None
    if section.format is None:
        try:
            return pc.cast(texts, pa.timestamp("us"))
        except pa.ArrowInvalid as error:
            raise DataError(
                f"data.transforms: date can't read {section.tensor!r} ({str(error)[:120]}); give it the dates' format,"
                ' e.g. format: "%d.%m.%Y"'
            ) from None
    stamps = pc.strptime(texts, format=section.format, unit="us", error_is_null=True)
    strange = texts.filter(pc.and_(pc.is_null(stamps), pc.is_valid(texts)))
    if len(strange):
        raise DataError(
            f"data.transforms: {strange[0].as_py()!r} in {section.tensor!r} is no date of the format {section.format!r}"
        )
    return stamps


def _numbers(stamps: pa.Array, part: str, cyclic: bool) -> list[np.ndarray]:
    """One part as float64 arrays (B,): one, or sine and cosine."""
    if part == "days":
        return [_floats(pc.cast(stamps, pa.int64())) / _MICROSECONDS_PER_DAY]
    extract: Any = {"weekday": pc.day_of_week}.get(part) or getattr(pc, part)
    values = _floats(extract(stamps))
    if not cyclic or part not in _PERIODS:
        return [values]
    angle = 2 * np.pi * (values - _FIRST.get(part, 0)) / _PERIODS[part]
    return [np.sin(angle), np.cos(angle)]


def _floats(values: pa.Array) -> np.ndarray:
    return np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
