"""Preparation of series: ``windows``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.preparations.text_columns import named_column
from orchestrator.data.preparations.windows import cut_windows
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Windows

_WINDOWS_AT_ONCE = 1024


class WindowsKind:
    """Series into windows of past and future."""

    version = 2

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
        """``past`` (past, series) and ``future`` (horizon, series), float32, in the order in which they are complete."""
        parts = _parts(section, fitted, tables)
        for windows in cut_windows(
            parts,
            past=section.past,
            horizon=section.horizon,
            stride=section.stride,
            at_once=_WINDOWS_AT_ONCE,
        ):
            if not section.together:
                windows = windows.transpose(0, 2, 1).reshape(-1, windows.shape[1], 1)
            past, future = np.split(windows, [section.past], axis=1)
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


def _parts(
    section: Windows, fitted: Mapping[str, Any], tables: Iterable[pa.Table]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each table's normalized values, float32 (rows, series), and the number of each row's group."""
    mean, deviation = np.array(fitted["mean"]), np.array(fitted["deviation"])
    numbers: dict[Any, int] = {}
    for table in tables:
        values = series_values(table, fitted["series"])
        if section.group is None:
            groups = np.zeros(len(values), dtype=np.int64)
        else:
            groups = _group_numbers(named_column(table, section.group), section.group, numbers)
        yield ((values - mean) / deviation).astype(np.float32), groups


def _group_numbers(column: pa.ChunkedArray, name: str, numbers: dict[Any, int]) -> np.ndarray:
    """The number of each row's group; groups that were not seen before get the next ones."""
    if missing := pc.sum(pc.is_null(column, nan_is_null=True)).as_py():
        raise DataError(
            f"data.prepare: group {name!r} is missing in {missing} rows, so they belong to no series; fill it in first"
        )
    encoded = pc.dictionary_encode(column).combine_chunks()
    here = [numbers.setdefault(value, len(numbers)) for value in encoded.dictionary.to_pylist()]
    return np.array(here, dtype=np.int64)[encoded.indices.to_numpy()]


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
        column = named_column(table, name)
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


def _tensors(values: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
