"""Preparation of series: ``windows``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.columns.star import series_notes
from orchestrator.data.preparations.neighbors import (
    SeriesCut,
    SeriesNumbers,
    Timeline,
    series_sizes,
    time_column,
    usual_step,
)
from orchestrator.data.preparations.places import place_of, source_names
from orchestrator.data.preparations.raw_rows import RawRows
from orchestrator.data.preparations.text_columns import named_column
from orchestrator.data.preparations.windows import cut_windows
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import Part, SourceRows
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Windows

_WINDOWS_AT_ONCE = 1024


class WindowsKind:
    """Series into windows of past and future."""

    version = 3
    places = True

    def fingerprint(self, section: Windows, base_dir: str) -> str:
        """Nothing beside."""
        return ""

    def columns(self, section: Windows, schema: pa.Schema) -> tuple[str, ...] | None:
        """See PreparationKind."""
        if section.columns == "*":
            return None
        beside = (section.group, time_column(section, schema))
        return tuple(dict.fromkeys([*section.columns, *(name for name in beside if name is not None)]))

    def required(self, section: Windows) -> dict[str, bool]:
        """None: where a series ends at a gap is said as it is cut."""
        return {}

    def unfit(self, section: Windows, base_dir: str, table: pa.Table) -> dict[int, str]:
        """None: what has a value is a sample."""
        return {}

    def too_long(self, section: Windows, fitted: Mapping[str, Any], table: pa.Table) -> dict[int, str]:
        """None: a series is cut."""
        return {}

    def cut(self, section: Windows, source: SourceRows) -> SeriesCut:
        """The end of each series is held out."""
        index = source.index
        if section.group is not None:
            everything = RawRows([SourceRows(index, Part())], (section.group,), places=True)
            sizes = series_sizes(section, everything)
        else:
            sizes = tuple(rows for file in index.files if (rows := sum(file.rows)))
            sizes = sizes if section.files == "apart" else (sum(sizes),)
        return SeriesCut(section, sizes, source.part.held_out / index.rows, evaluation=False)

    def notes(
        self, section: Windows, fitted: Mapping[str, Any], indexes: Sequence[SourceIndex]
    ) -> tuple[str, ...]:
        """That files are series of their own, and which column tells the time."""
        files = sum(bool(sum(file.rows)) for index in indexes for file in index.files)
        said = []
        if section.files == "apart" and files > 1:
            said.append(
                f"windows: each of {files} files is a series of its own; data.prepare.files: joined goes on from one"
                " to the next"
            )
        if section.time is None and fitted["time"] is not None:
            said.append(f"windows: column {fitted['time']!r} says the time of a row")
        if section.columns == "*":
            said += series_notes(fitted["series"], (section.group, fitted["time"]), indexes[0].schema)
        return tuple(said)

    def fit(self, section: Windows, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """Names of the series, mean and standard deviation of each, the time's column and its usual step."""
        names: list[str] = []
        time: str | None = None
        count, total, squares = 0, np.zeros(0), np.zeros(0)
        for table in tables:
            if not names:
                time = time_column(section, table.schema)
                names = _series(section, table, time)
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
            "time": time,
            "step": None if time is None else usual_step(section, time, tables),
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
    numbers = SeriesNumbers(section)
    timeline = None if fitted["time"] is None else Timeline(section, fitted["time"], fitted["step"])
    for table in tables:
        values, series = series_values(table, fitted["series"]), numbers.of(table)
        if timeline is not None:
            series = timeline.pieces(table, series)
        yield ((values - mean) / deviation).astype(np.float32), series


def _series(section: Windows, table: pa.Table, time: str | None) -> list[str]:
    if section.columns != "*":
        return list(section.columns)
    names = [
        field.name
        for field in table.schema
        if field.name in source_names(table)
        and field.name not in (section.group, time)
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
            raise DataError(
                f"data.prepare: column {name!r} is {column.type}, not numbers; name the series that are"
                " in data.prepare.columns"
            ) from None
        bad = ~np.isfinite(values)
        if bad.any():
            raise DataError(
                f"{place_of(table, int(bad.argmax()))}: series {name!r} is missing or infinite there; write a value, or"
                " leave the row out and have data.prepare.time and jumps: cut end the windows there"
            )
        columns.append(values)
    return np.stack(columns, axis=1)


def _tensors(values: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
