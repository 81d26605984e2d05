"""Missing values found before training: in evaluation rows, of which one makes every metric no number, and in numbers to predict."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow.compute as pc

from orchestrator.data.cache import remembered
from orchestrator.data.columns.arrays import column_array
from orchestrator.data.mends import FILL_OR_DROP
from orchestrator.data.preparations.places import place_of
from orchestrator.data.preparations.raw_rows import RawRows
from orchestrator.data.preparations.rewrite import rows_key
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.sources.split import SourceRows
from orchestrator.errors import DataError
from orchestrator.models.configs import default_objective
from orchestrator.spec.job import JobSpec

_VERSION = 1


def check_no_gaps(job: JobSpec, source: PreparedSource, cache: str) -> None:
    """Refuse evaluation rows that lack a number which no transform fills in.

    Raises:
        DataError: names the first such row, and its column.
    """
    filled = {section.tensor for section in job.data.transforms if section.kind in ("impute", "drop")}
    names = [
        (layout.name, column)
        for layout in source.layouts
        if layout.dtype == "float32" and layout.kind == "numbers"
        if not layout.gaps and layout.name not in filled
        for column in layout.columns
    ]
    if not names or source.skips_bad_samples:
        return
    rows = SourceRows(source.index, source.part)
    columns = [column for _, column in names]
    key = [rows_key([rows]), columns]
    gap = remembered(cache, "evaluation-gaps", _VERSION, key, lambda: _first_gap(rows, columns))
    if gap:
        place, column = gap
        tensor = dict((column, name) for name, column in names)[column]
        raise DataError(
            f"{place} has no value in {column!r}, and each evaluation would be no number; {FILL_OR_DROP}"
            f" (tensor: {tensor})"
        )


def check_numbers_there(job: JobSpec, sources: Sequence[SourceRows], cache: str) -> None:
    """Refuse texts that lack a number to predict where the objective takes none as missing.

    Raises:
        DataError: names the first such row, and its column.
    """
    prepare = job.data.prepare
    objective = job.objective or default_objective(job.model)
    if prepare is None or prepare.kind != "tokenize" or not prepare.numbers:
        return
    if (
        objective.kind not in ("regression", "multilabel")
        or objective.takes_missing_labels
        or job.data.skip_bad_samples
    ):
        return
    columns = list(prepare.numbers)
    for rows in sources:
        key = [rows_key([rows]), columns]
        gap = remembered(cache, "evaluation-gaps", _VERSION, key, partial(_first_gap, rows, columns))
        if gap:
            raise DataError(
                f"{gap[0]} has no value in {gap[1]!r}; objective: {{kind: {objective.kind}, missing_labels: true}} learns what is there, or"
                " data.skip_bad_samples leaves some rows out"
            )


def _first_gap(rows: SourceRows, columns: list[str]) -> list[str]:
    """Place and column of the first missing value; empty where there is none."""
    outer = tuple(
        dict.fromkeys(name if name in rows.index.schema.names else name.partition(".")[0] for name in columns)
    )
    for table in RawRows([rows], outer, places=True):
        for name in columns:
            missing = pc.is_null(column_array(table, name), nan_is_null=True)
            if pc.any(missing).as_py():
                return [place_of(table, int(np.asarray(missing).argmax())), name]
    return []
