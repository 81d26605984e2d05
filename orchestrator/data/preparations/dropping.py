"""Rows that ``data.transforms`` drops: left out of the source before there is an order of samples, and counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.cache import remembered_table
from orchestrator.data.columns.arrays import column_array, missing_in
from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.preparations.raw_rows import RawRows
from orchestrator.data.preparations.rewrite import rows_key, write_tables
from orchestrator.data.sources.contents import made_from
from orchestrator.data.sources.formats.parquet import index_parquet
from orchestrator.data.sources.split import Part, Selection, SourceRows
from orchestrator.errors import DataError

_VERSION = 2
"""Of what is kept; raise it when other rows are dropped."""


def without_missing(rows: SourceRows, layouts: Sequence[TensorLayout], cache: str) -> tuple[SourceRows, str]:
    """The rows that have a value in all columns of these tensors, as Parquet in the cache, and a sentence with the count.

    Raises:
        DataError: no row has.
    """
    before = int(Selection(rows.part, rows.index.group_rows).counts.sum())
    columns = {name: layout.blank_is_missing for layout in layouts for name in layout.columns}
    root, listed = rows.index.root, ", ".join(columns)

    def whole_rows() -> Iterator[pa.Table]:
        kept = 0
        for table in RawRows([rows], None):
            whole = table.filter(_has_all(table, columns))
            kept += whole.num_rows
            yield whole
        if not kept:
            raise DataError(f"{root}: every row lacks a value in {listed}, so drop leaves none")

    key = [rows_key([rows]), columns]
    path = remembered_table(
        cache, "whole-rows", _VERSION, key, lambda path: write_tables(path, whole_rows(), root)
    )
    index = made_from(rows.index, [_VERSION, key], index_parquet(path))
    part = "evaluation" if rows.part.evaluation else "training"
    note = f"{root}: {before - index.rows:,} of {before:,} {part} rows are dropped for missing values in {listed}"
    return SourceRows(index, Part()), note


def _has_all(table: pa.Table, columns: Mapping[str, bool]) -> pa.Array:
    """Whether each row has a value in every column."""
    whole = pa.repeat(True, table.num_rows)
    for name, blank_is_missing in columns.items():
        whole = pc.and_(whole, pc.invert(missing_in(column_array(table, name), blank=blank_is_missing)))
    return whole
