"""CSV and JSON lines: one row a line, types from the first file's beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import csv, json

from orchestrator.data.files import FileFacts, read_range
from orchestrator.data.listing import list_files
from orchestrator.data.sources.formats.lines import GROUP_BYTES, index_lines, scan
from orchestrator.data.sources.index import DataFile, SourceIndex, schema_text
from orchestrator.errors import DataError


class CsvFormat:
    """Comma-separated values with a header line; quoted fields may hold line breaks."""

    extensions = (".csv",)

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Reads each file once, unless the cache has its index."""
        files = list_files(path, self.extensions)
        header = _header(files[0])
        for facts in files[1:]:
            if (other := _header(facts)) != header:
                raise DataError(
                    f"{facts.path}: its header {other!r} is not that of {files[0].path}, {header!r}"
                )
        return _index("csv", path, files, index_lines(files, cache, "csv", header=True), _parse_csv_start)

    def index_beginning(self, source: Any, path: str) -> SourceIndex:
        """The first file's first megabyte."""
        facts = list_files(path, self.extensions)[0]
        return _index(
            "csv", path, [facts], (scan(facts, "csv", header=True, most=GROUP_BYTES),), _parse_csv_start
        )

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """One run of lines."""
        return _read(index, group, columns, _parse_csv)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first group's."""
        return self.read(index, 0, index.schema.names).slice(0, rows)


class JsonLinesFormat:
    """A JSON object a line; fields that the first megabyte of the first file lacks are left out."""

    extensions = (".jsonl", ".ndjson", ".json")

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Reads each file once, unless the cache has its index."""
        files = list_files(path, self.extensions)
        return _index("jsonl", path, files, index_lines(files, cache, "line"), _parse_json_start)

    def index_beginning(self, source: Any, path: str) -> SourceIndex:
        """The first file's first megabyte."""
        facts = list_files(path, self.extensions)[0]
        return _index(
            "jsonl", path, [facts], (scan(facts, "line", header=False, most=GROUP_BYTES),), _parse_json_start
        )

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """One run of lines."""
        return _read(index, group, columns, _parse_json)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first group's."""
        return self.read(index, 0, index.schema.names).slice(0, rows)


def _index(
    kind: str,
    path: str,
    files: list[FileFacts],
    indexed: tuple[DataFile, ...],
    parse: Callable[[bytes], pa.Table],
) -> SourceIndex:
    count = sum(sum(file.rows) for file in indexed)
    if count == 0:
        raise DataError(f"{path}: has no rows")
    first = next(facts for facts, file in zip(files, indexed, strict=True) if file.rows)
    start = _start(first)
    try:
        schema = parse(start[: start.rfind(b"\n") + 1] or start).schema
    except pa.ArrowInvalid as error:
        raise DataError(f"{first.path}: is not {kind} ({str(error)[:200]})") from error
    size = sum(file.bytes for file in indexed)
    return SourceIndex(
        kind=kind,
        root=path,
        files=indexed,
        arrow_schema=schema_text(schema),
        row_bytes=max(8.0 * len(schema), size / count),
    )


def _start(facts: FileFacts) -> bytes:
    return read_range(facts.path, 0, min(GROUP_BYTES, facts.bytes))


def _header(facts: FileFacts) -> str:
    return _start(facts).split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").strip()


def _read(
    index: SourceIndex,
    group: int,
    columns: Sequence[str],
    parse: Callable[[bytes, pa.Schema, Sequence[str]], pa.Table],
) -> pa.Table:
    file, inner = index.place(group)
    text = read_range(file.path, file.marks[inner], file.marks[inner + 1])
    try:
        table = parse(text, index.schema, columns)
    except pa.ArrowInvalid:
        # A column that began with whole numbers may have fractions or gaps further down.
        try:
            table = parse(text, _widened(index.schema), columns)
        except pa.ArrowInvalid as error:
            raise DataError(f"{_rows_of(file, inner)}: {str(error)[:200]}") from error
    if table.num_rows != file.rows[inner]:
        raise DataError(
            f"{_rows_of(file, inner)} are {table.num_rows} now; a file must not change while it is trained on"
        )
    return table


def _rows_of(file: DataFile, inner: int) -> str:
    return f"{file.path}: rows {sum(file.rows[:inner])} to {sum(file.rows[: inner + 1])}"


def _widened(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_type(pa.float64()) if pa.types.is_integer(f.type) else f for f in schema])


def _parse_csv_start(text: bytes) -> pa.Table:
    return csv.read_csv(
        pa.BufferReader(text),
        read_options=csv.ReadOptions(block_size=len(text) + 1, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
    )


def _parse_csv(text: bytes, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    return csv.read_csv(
        pa.BufferReader(text),
        read_options=csv.ReadOptions(column_names=schema.names, use_threads=False, block_size=len(text) + 1),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={name: schema.field(name).type for name in columns}, include_columns=list(columns)
        ),
    )


def _parse_json_start(text: bytes) -> pa.Table:
    return json.read_json(
        pa.BufferReader(text), read_options=json.ReadOptions(block_size=len(text) + 1, use_threads=False)
    )


def _parse_json(text: bytes, schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    return json.read_json(
        pa.BufferReader(text),
        read_options=json.ReadOptions(block_size=len(text) + 1, use_threads=False),
        parse_options=json.ParseOptions(
            explicit_schema=pa.schema([schema.field(name) for name in columns]),
            unexpected_field_behavior="ignore",
        ),
    )
