"""Preparation of series: ``windows``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.windows import gather, rows_by_series, window_starts
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Windows

_WINDOWS_AT_ONCE = 1024


class WindowsKind:
    """Series into windows of past and future."""

    version = 1

    def fingerprint(self, section: Windows, base_dir: str) -> str:
        """Nothing beside."""
        return ""

    def columns(self, section: Windows) -> tuple[str, ...] | None:
        """See PreparationKind."""
        if section.columns == "*":
            return None
        return section.columns if section.group is None else (*section.columns, section.group)

    def fit(self, section: Windows, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """Names of the series, and mean and standard deviation of each."""
        names: list[str] = []
        count, total, squares = 0, np.zeros(0), np.zeros(0)
        for table in tables:
            if not names:
                names = _series(section, table)
                total, squares = np.zeros(len(names)), np.zeros(len(names))
            values = series_values(table, names)
            count, total = count + len(values), total + values.sum(axis=0, dtype=np.float64)
        if not count:
            raise DataError("data.prepare: there are no rows to cut windows from")
        mean = total / count
        for table in tables:  # twice through, so that a large mean takes no digits from a small deviation
            squares = squares + ((series_values(table, names) - mean) ** 2).sum(axis=0)
        deviation = np.sqrt(squares / count)
        return {
            "series": names,
            "mean": (mean if section.normalize else np.zeros_like(mean)).tolist(),
            "deviation": (
                np.where(deviation > 0, deviation, 1.0) if section.normalize else np.ones_like(mean)
            ).tolist(),
        }

    def build(
        self, section: Windows, fitted: Mapping[str, Any], tables: Iterable[pa.Table]
    ) -> Iterator[pa.Table]:
        """``past`` (past, series) and ``future`` (horizon, series), float32."""
        names = fitted["series"]
        parts, groups = [], []
        for table in tables:
            parts.append(series_values(table, names))
            if section.group is not None:
                groups.append(_column(table, section.group).to_numpy())
        values = np.concatenate(parts) if parts else np.zeros((0, len(names)))
        lengths = [len(values)]
        if section.group is not None:
            order, lengths = rows_by_series(np.concatenate(groups))
            values = values[order]
        values = ((values - np.array(fitted["mean"])) / np.array(fitted["deviation"])).astype(np.float32)
        starts = window_starts(lengths, past=section.past, horizon=section.horizon, stride=section.stride)
        for first in range(0, len(starts), _WINDOWS_AT_ONCE):
            some = starts[first : first + _WINDOWS_AT_ONCE]
            past, future = gather(values, some, section.past, section.horizon)
            if not section.together:
                past, future = (
                    window.transpose(0, 2, 1).reshape(-1, window.shape[1], 1) for window in (past, future)
                )
            yield pa.table({"past": _tensors(past), "future": _tensors(future)})

    def dims(self, section: Windows, fitted: Mapping[str, Any]) -> dict[str, int]:
        """``series``, ``past`` and ``horizon``."""
        series = len(fitted["series"]) if section.together else 1
        return {"series": series, "past": section.past, "horizon": section.horizon}

    def lists(self, section: Windows, fitted: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}

    def dims_before(self, section: Windows, base_dir: str) -> dict[str, int]:
        """``past`` and ``horizon``, and ``series`` where they are named."""
        known = {"past": section.past, "horizon": section.horizon}
        if not section.together:
            return known | {"series": 1}
        return known if section.columns == "*" else known | {"series": len(section.columns)}

    def lists_before(self, section: Windows, base_dir: str) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}


def _series(section: Windows, table: pa.Table) -> list[str]:
    if section.columns != "*":
        return list(section.columns)
    names = [
        field.name
        for field in table.schema
        if field.name != section.group
        and (pa.types.is_floating(field.type) or pa.types.is_integer(field.type))
    ]
    if not names:
        raise DataError("data.prepare: no column holds numbers, so there are no series; name them in columns")
    return names


def series_values(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """The series' values, float64 (rows, series). Raises DataError where one is missing or no number."""
    columns = []
    for name in names:
        column = _column(table, name)
        try:
            values = pc.cast(column, pa.float64()).to_numpy()
        except pa.ArrowException:
            raise DataError(f"data.prepare: column {name!r} is {column.type}, not numbers") from None
        bad = ~np.isfinite(values)
        if bad.any():
            raise DataError(
                f"data.prepare: series {name!r} has {int(bad.sum())} missing or infinite values, the first in row"
                f" {int(bad.argmax())} of its part; fill them in first"
            )
        columns.append(values)
    return np.stack(columns, axis=1)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise DataError(
            f"data.prepare: there is no column {name!r}; the data has {', '.join(table.column_names)}"
        )
    return table[name]


def _tensors(values: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
