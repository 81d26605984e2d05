"""Series: a table whose rows follow one another in a column of time, and nothing that is named as a label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.cli.first_job.columns import Column, guess_label
from orchestrator.cli.first_job.draft import Draft, flow_list, scalar, training_length
from orchestrator.cli.first_job.source import Found

_FEWEST_ROWS = 40


def series_draft(found: Found, columns: Sequence[Column], asked: str | None) -> Draft | None:
    """An LSTM that forecasts all series; None where time is not evident."""
    label, why = guess_label(columns, found.sample.num_rows, None)
    if asked is not None or (label is not None and why == "its name says so"):
        return None
    series = [one for one in columns if one.role == "number" and not one.missing and _is_number(one.kind)]
    time = next(
        (one for one in columns if one.role == "date" and one.format is None and not one.missing), None
    )
    if time is None or not series:
        return None
    stamps = found.sample.column(time.name)
    group = _group(stamps, [one for one in columns if one.role == "category"], found.sample)
    if group is None and not _rises(stamps):
        return None
    parts = [stamps] if group is None else _parts(stamps, found.sample.column(group.name))
    rows = min(len(part) for part in parts)
    if rows < _FEWEST_ROWS:
        return None
    series = [one for one in series if one is not group]
    past = int(min(96, max(4, rows // 10)))
    horizon = max(1, past // 4)
    steps = np.concatenate(
        [np.diff(part.to_numpy().astype("datetime64[us]").astype(np.int64)) for part in parts]
    )
    uneven = bool((steps > 1.5 * np.median(steps)).any())
    lines = [
        "prepare:                 # rows of the past, and the rows after them to forecast",
        "  kind: windows",
        f"  columns: {flow_list([one.name for one in series], 4)}",
        *([f"  group: {scalar(group.name)}"] if group else []),
        f"  time: {scalar(time.name)}",
        f"  past: {past}",
        f"  horizon: {horizon}",
        *(["  jumps: ignore          # cut: no window runs over a gap in time"] if uneven else []),
    ]
    notes = [
        f"rows follow one another in {time.name}, and no column is named as a label, so series to forecast (lstm);"
        " to predict a column instead, give --label",
        *([f"{group.name} says which rows are of one series"] if group else []),
        *(["steps in time differ (working days?): only the rows' order counts"] if uneven else []),
        *found.found,
        *_others(columns, [*series, time, *([group] if group else [])]),
    ]
    windows = found.train_rows - len(parts) * (past + horizon)
    return Draft(
        "lstm",
        found.lines,
        lines,
        evaluation=found.evaluation,
        objective="forecasting",
        found=notes,
        length=training_length(max(8, windows)),
    )


def _others(columns: Sequence[Column], taken: Sequence[Column]) -> list[str]:
    gaps = [one.name for one in columns if one not in taken and one.role == "number" and one.missing]
    rest = [one.name for one in columns if one not in taken and one.name not in gaps]
    said = [f"left out: {', '.join(rest)}"] if rest else []
    return [
        *said,
        *(
            [f"left out: {', '.join(gaps)}, which has gaps; a series has none: fill them in the file"]
            if gaps
            else []
        ),
    ]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _rises(stamps: pa.ChunkedArray) -> bool:
    steps = np.diff(stamps.to_numpy().astype("datetime64[us]").astype(np.int64))
    return bool(len(steps)) and bool((steps > 0).all())


def _group(stamps: pa.ChunkedArray, candidates: Sequence[Column], table: pa.Table) -> Column | None:
    """The column within each of whose values time rises, where it does not over all rows."""
    if _rises(stamps):
        return None
    for one in candidates:
        column = table.column(one.name)
        if not column.null_count and all(_rises(part) for part in _parts(stamps, column)):
            return one
    return None


def _parts(stamps: pa.ChunkedArray, groups: pa.ChunkedArray) -> list[pa.ChunkedArray]:
    return [stamps.filter(pc.equal(groups, value)) for value in pc.unique(groups)]
