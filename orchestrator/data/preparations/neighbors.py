"""Rows that follow one another in time: which series a row is of, where a series is cut for evaluation, when it jumps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.held_out import held_out_rows
from orchestrator.data.preparations.places import file_of, place_of
from orchestrator.data.preparations.text_columns import named_column
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Windows

_JUMP = 1.5
"""A step of more than so many usual ones is a jump; a month of 31 days is none among those of 28."""
_STEPS_SEEN = 100_000


class SeriesNumbers:
    """The series of each row, numbered as they are first seen: a file's, a group's, or the one that there is."""

    def __init__(self, section: Windows) -> None:
        self._section = section
        self._numbers: dict[Any, int] = {}

    def of(self, table: pa.Table) -> np.ndarray:
        """int64 (N,). Raises DataError where a row's group is missing."""
        file = file_of(table) if self._section.files == "apart" else ""
        if self._section.group is None:
            return np.full(len(table), self._numbers.setdefault((file, None), len(self._numbers)))
        column = named_column(table, self._section.group)
        if column.null_count or pa.types.is_floating(column.type):
            missing = pc.is_null(column, nan_is_null=True).to_numpy()
            if missing.any():
                raise DataError(
                    f"{place_of(table, int(missing.argmax()))}: group {self._section.group!r} is missing in"
                    f" {int(missing.sum())} rows, so they belong to no series; write one, or leave"
                    " such rows out"
                )
        encoded = pc.dictionary_encode(column).combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = (
                encoded.chunk(0) if encoded.num_chunks else pa.array([], column.type).dictionary_encode()
            )
        names = encoded.dictionary.to_pylist()
        here = [self._numbers.setdefault((file, name), len(self._numbers)) for name in names]
        return np.array(here, dtype=np.int64)[encoded.indices.to_numpy()]


@dataclass(frozen=True)
class SeriesCut:
    """Each series' last rows are held out; before them so many are left out that no window of one part knows of the
    other's.
    """

    section: Windows
    rows: tuple[int, ...]
    """Of each series, in the order of ``SeriesNumbers``."""
    fraction: float
    """Of each series' rows that is held out."""
    evaluation: bool
    """Whether the held-out rows are kept, or those before the gap."""

    def kept(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """All rows of the source come in, those of the part come out."""
        sizes = np.array(self.rows, dtype=np.int64)
        held = np.array([held_out_rows(n, self.fraction) if n > 1 else 0 for n in self.rows], dtype=np.int64)
        first = sizes - held if self.evaluation else np.zeros_like(sizes)
        stop = sizes if self.evaluation else sizes - held - np.where(held > 0, self.section.horizon, 0)
        numbers, seen = SeriesNumbers(self.section), np.zeros_like(sizes)
        for table in tables:
            series = numbers.of(table)
            rank = _ranks(series) + seen[series]
            seen += np.bincount(series, minlength=len(seen))
            inside = (rank >= first[series]) & (rank < stop[series])
            if inside.any():
                yield table if inside.all() else table.filter(pa.array(inside))


def series_sizes(section: Windows, tables: Iterable[pa.Table]) -> tuple[int, ...]:
    """Rows of each series, in the order of ``SeriesNumbers``."""
    numbers, sizes = SeriesNumbers(section), np.zeros(0, dtype=np.int64)
    for table in tables:
        more = np.bincount(numbers.of(table), minlength=len(sizes))
        more[: len(sizes)] += sizes
        sizes = more
    return tuple(sizes.tolist())


def _ranks(series: np.ndarray) -> np.ndarray:
    """How many rows of the same series stand before each row."""
    order = np.argsort(series, kind="stable")
    starts = np.flatnonzero(np.diff(series[order], prepend=-1))
    lengths = np.diff(np.append(starts, len(order)))
    ranks = np.empty(len(series), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return ranks


def usual_step(section: Windows, time: str, tables: Iterable[pa.Table]) -> int:
    """The median step from one row of a series to its next, in the column's own units; of the first rows only."""
    numbers, last = SeriesNumbers(section), _LastTimes()
    steps: list[np.ndarray] = []
    for table in tables:
        step, _ = last.steps(times_of(table, time), numbers.of(table))
        steps.append(step[step > 0])
        if sum(map(len, steps)) >= _STEPS_SEEN:
            break
    seen = np.concatenate(steps) if steps else np.zeros(0, dtype=np.int64)
    return int(np.median(seen)) if len(seen) else 0


class Timeline:
    """Holds rows against the order of time, as they come."""

    def __init__(self, section: Windows, time: str, step: int) -> None:
        self._section, self._time, self._step = section, time, step
        self._last = _LastTimes()
        self._pieces: dict[int, int] = {}
        self._used = 0

    def pieces(self, table: pa.Table, series: np.ndarray) -> np.ndarray:
        """The number of the piece without a jump that each row is of, int64 (N,); a series has one unless it jumps.

        Raises:
            DataError: time goes back or stands still within a series, or jumps and jumps are an error.
        """
        times = times_of(table, self._time)
        step, before = self._last.steps(times, series)
        if (step <= 0).any():
            row = int((step <= 0).argmax())
            raise DataError(
                f"{place_of(table, row)}: column {self._time!r} goes from {self._said(table, before[row])} to"
                f" {self._said(table, times[row])}; sort the rows by it, and name data.prepare.group where rows of"
                " several series stand in one file"
            )
        jumps = step > _JUMP * self._step if self._step else np.zeros(len(step), dtype=bool)
        if jumps.any() and self._section.jumps == "error":
            row = int(jumps.argmax())
            raise DataError(
                f"{place_of(table, row)}: column {self._time!r} jumps from {self._said(table, before[row])} to"
                f" {self._said(table, times[row])}, so windows would run over a gap; fill it, or set"
                " data.prepare.jumps to cut (no window runs over one) or ignore"
            )
        return self._numbered(series, jumps if self._section.jumps == "cut" else np.zeros_like(jumps))

    def _numbered(self, series: np.ndarray, jumps: np.ndarray) -> np.ndarray:
        out = np.empty(len(series), dtype=np.int64)
        for number, places in _by_series(series):
            piece = self._pieces.get(number)
            if piece is None:
                piece, self._used = self._used, self._used + 1
            ahead = np.cumsum(jumps[places])
            out[places] = np.where(ahead > 0, self._used - 1 + ahead, piece)
            self._used += int(ahead[-1])
            self._pieces[number] = int(out[places[-1]])
        return out

    def _said(self, table: pa.Table, value: int) -> str:
        kind = named_column(table, self._time).type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            return str(value)
        return str(pa.scalar(int(value), pa.int64()).cast(pa.timestamp("us")).as_py())


@dataclass
class _LastTimes:
    """The time of each series' last row."""

    last: dict[int, int] = field(default_factory=dict)

    def steps(self, times: np.ndarray, series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The step to each row from its series' row before, 1 for a first one; and that row's time."""
        step, before = np.ones(len(times), dtype=times.dtype), times.copy()
        for number, places in _by_series(series):
            mine = times[places]
            if number in self.last:
                before[places[0]] = self.last[number]
                step[places[0]] = mine[0] - self.last[number]
            elif len(mine) > 1:
                step[places[0]] = max(1, mine[1] - mine[0])  # as if it came in time
            before[places[1:]] = mine[:-1]
            step[places[1:]] = np.diff(mine)
            self.last[number] = mine[-1]
        return step, before


def _by_series(series: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each series and the places of its rows, ascending."""
    order = np.argsort(series, kind="stable")
    if len(order):
        for places in np.split(order, np.flatnonzero(np.diff(series[order])) + 1):
            yield int(series[places[0]]), places


def time_column(section: Windows, schema: pa.Schema) -> str | None:
    """The column that says when a row was: the named one, or the only one of dates or times."""
    if section.time is not None:
        return section.time
    temporal = [one.name for one in schema if pa.types.is_timestamp(one.type) or pa.types.is_date(one.type)]
    return temporal[0] if len(temporal) == 1 else None


def times_of(table: pa.Table, name: str) -> np.ndarray:
    """Times as numbers: microseconds of dates and times, whole numbers as they are. Raises DataError."""
    column = named_column(table, name)
    kind = column.type
    try:
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            column = column.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False).cast(pa.int64())
        missing = pc.is_null(column, nan_is_null=True).to_numpy()
        if missing.any():
            raise DataError(
                f"{place_of(table, int(missing.argmax()))}: column {name!r} has no time there;"
                " write one, or leave the row out"
            )
        return np.asarray(column.to_numpy())
    except pa.ArrowException:
        raise DataError(
            f"data.prepare.time: column {name!r} is {kind}, and not dates, times or whole numbers; write times as"
            " 2026-01-31 12:00:00"
        ) from None
