"""Where a raw row lies, for preparations that ask: two columns beside the source's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from orchestrator.errors import DataError

_FILE, _ROW = "\x00file", "\x00row"
"""No file has a column of such a name."""


def with_places(table: pa.Table, file: str, first: int) -> pa.Table:
    """The table with each row's file, and its number there, counted from ``first``."""
    rows = np.arange(first, first + len(table), dtype=np.int64)
    files = pa.DictionaryArray.from_arrays(np.zeros(len(table), dtype=np.int8), [file])
    return table.append_column(_FILE, files).append_column(_ROW, pa.array(rows))


def source_names(table: pa.Table) -> list[str]:
    """The source's own columns."""
    return [name for name in table.column_names if name not in (_FILE, _ROW)]


def file_of(table: pa.Table) -> str:
    """The one file of all rows; empty where nobody asked."""
    return str(table[_FILE][0].as_py()) if _FILE in table.column_names and len(table) else ""


def refuse_first(table: pa.Table, unfit: Mapping[int, str], mend: str) -> None:
    """Raises DataError for the first of some rows that are no samples, where there is one."""
    for row, problem in sorted(unfit.items()):
        raise DataError(
            f"{place_of(table, row)}: {problem}; {mend}, or data.skip_bad_samples leaves some out"
        )


def place_of(table: pa.Table, row: int) -> str:
    """A row as a person finds it."""
    return (
        f"{file_of(table)}, row {table[_ROW][row].as_py()}" if file_of(table) else f"data.prepare: row {row}"
    )
