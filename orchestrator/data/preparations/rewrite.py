"""What ``data.prepare`` makes of raw rows: Parquet in the cache, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.cache import remembered, remembered_table
from orchestrator.data.preparations import kind_of
from orchestrator.data.preparations.raw_rows import RawRows, Required
from orchestrator.data.sources.contents import made_from
from orchestrator.data.sources.formats.parquet import index_parquet
from orchestrator.data.sources.split import Part, Selection, SourceRows
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Preparation

_GROUP_BYTES = 2**22
"""Row groups of what is prepared: small enough that many shuffle well, large enough to read fast."""
_VERSION = 2
"""Of how rows are written; what they hold has the version of its kind."""


@dataclass(frozen=True)
class RewrittenRows:
    """What a preparation made."""

    train: tuple[SourceRows, ...]
    """All rows of one Parquet file for each training source."""
    evaluation: SourceRows | None
    """Likewise."""
    fitted: dict[str, Any]
    """What it learned from the training rows."""
    notes: tuple[str, ...]
    """What it took for granted, in sentences for the plan's notes."""


def rewrite_rows(
    section: Preparation,
    train: Sequence[SourceRows],
    evaluation: SourceRows | None,
    base_dir: str,
    cache: str,
    *,
    skip: int,
) -> RewrittenRows:
    """Fit on the training rows, then rewrite training and evaluation rows, each by itself.

    Args:
        skip: rows that may be left out since they lack a value, or are too long.
    """
    kind = kind_of(section)
    columns = kind.columns(section, train[0].index.schema)
    # of a split by group each side is whole series or texts
    is_split = evaluation is not None and evaluation.part.by not in ("all", "group")
    cut = kind.cut(section, train[0]) if is_split else None
    required = Required(kind.required(section), skip, partial(kind.unfit, section, base_dir))

    def rows(sources: Sequence[SourceRows], required: Required) -> RawRows:
        held_out = sources[0].part.evaluation
        mine = None if cut is None else replace(cut, evaluation=held_out)
        return RawRows(sources, columns, places=kind.places, cut=mine, required=required)

    fit_key = [section.model_dump(mode="json"), kind.fingerprint(section, base_dir), rows_key(train), skip]
    fitted: dict[str, Any] = remembered(
        cache,
        "preparation-fit",
        kind.version,
        fit_key,
        lambda: kind.fit(section, rows(train, required), base_dir),
    )
    fitting = required.and_fit(partial(kind.too_long, section, fitted)) if skip else required

    def build(source: SourceRows) -> SourceRows:
        def write(path: str) -> None:
            tables = kind.build(section, fitted, rows([source], fitting))
            write_tables(path, tables, source.index.root)

        key = [_VERSION, fit_key, rows_key([source])]
        path = remembered_table(cache, "preparation", kind.version, key, write)
        return SourceRows(made_from(source.index, key, index_parquet(path)), Part())

    # Where none may be skipped, a row that lacks a value was an error.
    may_skip = [*train, *([evaluation] if evaluation else [])] if skip and kind.required(section) else []
    skipped = [
        _skipped(source, rows([source], fitting), list(kind.required(section)), fit_key, cache)
        for source in may_skip
    ]
    return RewrittenRows(
        tuple(build(source) for source in train),
        build(evaluation) if evaluation else None,
        fitted,
        (
            *kind.notes(section, fitted, [source.index for source in train]),
            *(note for note in skipped if note),
        ),
    )


def _skipped(
    source: SourceRows, complete: RawRows, columns: Sequence[str], key: Sequence[Any], cache: str
) -> str:
    """How many rows are no samples, as a sentence; empty where all are."""
    whole = int(Selection(source.part, source.index.group_rows).counts.sum())
    left: int = remembered(
        cache,
        "skipped-rows",
        _VERSION,
        [*key, rows_key([source]), columns],
        lambda: whole - sum(table.num_rows for table in complete),
    )
    part = "evaluation" if source.part.evaluation else "training"
    said = (
        f"{source.index.root}: {left:,} of {whole:,} {part} rows lack {' or '.join(columns)}, or don't fit, and are"
        " skipped; the log names each"
    )
    return said if left else ""


def rows_key(sources: Sequence[SourceRows]) -> list[Any]:
    """What rows those are."""
    return [[source.index.identity, source.part.key] for source in sources]


def write_tables(path: str, tables: Iterable[pa.Table], root: str) -> None:
    """Tables into row groups of about one size."""
    writer: pq.ParquetWriter | None = None
    waiting: list[pa.Table] = []
    try:
        for table in tables:
            waiting.append(table)
            if sum(one.nbytes for one in waiting) >= _GROUP_BYTES:
                writer = writer or pq.ParquetWriter(path, table.schema)
                _write_groups(writer, pa.concat_tables(waiting))
                waiting = []
        rest = pa.concat_tables(waiting) if waiting else None
        if writer is None and (rest is None or rest.num_rows == 0):
            raise DataError(f"data.prepare: {root} is too short to make one sample")
        if rest is not None and rest.num_rows:
            writer = writer or pq.ParquetWriter(path, rest.schema)
            _write_groups(writer, rest)
    finally:
        if writer is not None:
            writer.close()


def _write_groups(writer: pq.ParquetWriter, table: pa.Table) -> None:
    rows = max(1, int(table.num_rows * _GROUP_BYTES / max(1, table.nbytes)))
    writer.write_table(table.combine_chunks(), row_group_size=rows)
