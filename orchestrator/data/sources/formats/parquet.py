"""Parquet: footers are the index; a row group is a group."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.files import FileFacts, locate, retrying
from orchestrator.data.listing import list_files
from orchestrator.data.sources.index import Content, DataFile, SourceIndex, file_contents, schema_text
from orchestrator.data.sources.tables import match_columns, plain_schema, plain_table
from orchestrator.errors import DataError
from orchestrator.storage import is_uri
from orchestrator.storage.faults import first_line

_OPEN_FILES = 64
_THREADS = 16
_SIGNATURE_BYTES = 28
"""Of a plain footer in an encrypted file: nonce and tag (Parquet's encryption.md)."""
T = TypeVar("T")


class ParquetFormat:
    """Reads row groups; keeps the files of late open with their footers."""

    extensions = (".parquet", ".pq")

    def __init__(self) -> None:
        self._open: OrderedDict[str, pq.ParquetFile] = OrderedDict()

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Reads the footers, sixteen at a time."""
        return index_parquet(path)

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """One row group."""
        file, inner = index.place(group)

        def read() -> pa.Table:
            opened = self._open.get(file.path)
            if opened is None:
                opened = open_parquet(file.path)
                self._open[file.path] = opened
                if len(self._open) > _OPEN_FILES:
                    self._open.popitem(last=False)[1].close()
            try:
                return opened.read_row_group(inner, columns=list(columns), use_threads=False)
            except OSError:
                # The next try opens the file anew.
                self._open.pop(file.path, None)
                raise

        table = plain_table(_understood(read, file.path, f"row group {inner} is damaged"), file.path)
        if table.num_rows != file.rows[inner]:
            raise DataError(
                f"{file.path}: row group {inner} has {table.num_rows} rows, but had {file.rows[inner]} when the run"
                " began; a file must not change while it is trained on"
            )
        return table

    def contents(self, index: SourceIndex) -> list[Content]:
        """The files."""
        return file_contents(index)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """Decodes the first rows only."""
        first = next(file for file in index.files if sum(file.rows))

        def read() -> pa.Table:
            with open_parquet(first.path) as opened:
                return pa.Table.from_batches([next(opened.iter_batches(batch_size=rows, use_threads=False))])

        return plain_table(_understood(read, first.path, "its beginning is damaged"), first.path)


def open_parquet(path: str) -> pq.ParquetFile:
    """A Parquet file whose pages are held against their checksums, where they have some.

    Not mapped into memory: pages of a map count as this process's and add up over the data.
    """
    system, inner = locate(path)
    if not is_uri(path):
        return pq.ParquetFile(inner, page_checksum_verification=True)
    return pq.ParquetFile(system.open_input_file(inner), pre_buffer=True, page_checksum_verification=True)


def _understood(read: Callable[[], T], path: str, fault: str) -> T:
    """What is read, or one sentence. What Arrow raises of damage depends on where it is."""
    try:
        return retrying(read, path)
    except (pa.ArrowException, ValueError, IndexError, OverflowError) as error:
        raise DataError(f"{path}: {fault} ({first_line(error)[:200]})") from error


def index_parquet(path: str) -> SourceIndex:
    """Row groups of all Parquet files of a path.

    Raises:
        DataError: a file is missing or damaged, or a column has another type in another file.
    """
    files = list_files(path, ParquetFormat.extensions)
    with ThreadPoolExecutor(min(_THREADS, len(files))) as pool:
        footers = list(pool.map(_footer, files))
    first_schema = footers[0].schema
    found = match_schemas([facts.path for facts in files], [one.schema for one in footers])
    total_rows = sum(sum(one.file.rows) for one in footers)
    memory = sum(one.memory_bytes for one in footers)
    if total_rows == 0:
        raise DataError(f"{path}: has no rows")
    return SourceIndex(
        kind="parquet",
        root=path,
        files=tuple(one.file for one in footers),
        arrow_schema=schema_text(first_schema),
        row_bytes=memory / total_rows,
        found=found,
        bounds=_joined_bounds([one.bounds for one in footers]),
    )


def match_schemas(paths: Sequence[str], schemas: Sequence[pa.Schema]) -> tuple[str, ...]:
    """What to say of the columns of a source's files: see ``match_columns``.

    Raises:
        DataError: a file lacks a column of the first, or has it in another type; names column and files.
    """
    notes = match_columns(paths, [schema.names for schema in schemas])
    first = {field.name: field.type for field in schemas[0]}
    for path, schema in zip(paths, schemas, strict=True):
        for field in schema:
            kind = first.get(field.name, field.type)
            if kind != field.type and len(schema.get_all_field_indices(field.name)) == 1:
                raise DataError(
                    f"column {field.name!r} is {kind} in {paths[0]}, but {field.type} in {path}; write both with one type"
                )
    return notes


@dataclass(frozen=True)
class _Footer:
    file: DataFile
    schema: pa.Schema
    memory_bytes: int
    bounds: dict[str, tuple[int, int]]
    """Least and greatest of each column of whole numbers, where every row group says it."""


def _joined_bounds(parts: list[dict[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    """Bounds over files; only of columns that all of them know."""
    names = set(parts[0]).intersection(*parts)
    return {name: (min(p[name][0] for p in parts), max(p[name][1] for p in parts)) for name in sorted(names)}


def _refuse_more_than_metadata(meta: pq.FileMetaData, handle: pa.NativeFile, facts: FileFacts) -> None:
    """Refuse a footer that is signed: its file is encrypted, and Arrow ends the process once it is asked for a column."""
    handle.seek(facts.bytes - 8)
    length = int.from_bytes(handle.read(4), "little")
    if length == meta.serialized_size + _SIGNATURE_BYTES:
        raise DataError(f"{facts.path}: is encrypted; write it without encryption")
    if length != meta.serialized_size:
        raise DataError(
            f"{facts.path}: its footer is damaged ({length} bytes, {meta.serialized_size} understood)"
        )


def _footer(facts: FileFacts) -> _Footer:
    def read() -> _Footer:
        system, inner = locate(facts.path)
        with system.open_input_file(inner) as handle:
            file = pq.ParquetFile(handle)
            meta = file.metadata
            _refuse_more_than_metadata(meta, handle, facts)
            schema = plain_schema(file.schema_arrow, facts.path)
        groups = [meta.row_group(number) for number in range(meta.num_row_groups)]
        rows = tuple(group.num_rows for group in groups)
        memory_bytes = sum(group.total_byte_size for group in groups)
        bounds = [_group_bounds(group, schema) for group in groups]
        data_file = DataFile(path=facts.path, bytes=facts.bytes, stamp=facts.stamp, rows=rows)
        return _Footer(data_file, schema, memory_bytes, _joined_bounds(bounds) if bounds else {})

    return _understood(read, facts.path, "is not a whole Parquet file")


def _group_bounds(group: pq.RowGroupMetaData, schema: pa.Schema) -> dict[str, tuple[int, int]]:
    """Least and greatest of columns of whole numbers, where the group says them and no other column has the name."""
    bounds: dict[str, tuple[int, int]] = {}
    for number in range(group.num_columns):
        column = group.column(number)
        place = schema.get_field_index(column.path_in_schema)
        if place < 0 or not pa.types.is_integer(schema.field(place).type) or not column.is_stats_set:
            continue
        known = column.statistics
        if known is not None and known.has_min_max:
            bounds[column.path_in_schema] = int(known.min_raw), int(known.max_raw)
    return bounds
