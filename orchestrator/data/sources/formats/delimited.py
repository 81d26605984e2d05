"""CSV and JSON lines: one row a line, types from the first file's beginning."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyarrow import json

from orchestrator.data.files import FileFacts, read_range
from orchestrator.data.listing import list_files
from orchestrator.data.sources.formats import row_groups
from orchestrator.data.sources.formats.csv_text import first_schema, header_names, parse
from orchestrator.data.sources.formats.dialect import Dialect, find_dialect, refuse_utf16
from orchestrator.data.sources.formats.lines import JSON_LINES, index_beginning, index_lines
from orchestrator.data.sources.index import Content, DataFile, SourceIndex, file_contents, schema_text
from orchestrator.data.sources.tables import further_columns, match_columns
from orchestrator.errors import DataError
from orchestrator.spec.data import CsvSource

_FIRST_ROW_BYTES = 64 << 10


class CsvFormat:
    """Comma-separated values with a header line; quoted fields may hold line breaks."""

    extensions = (".csv",)

    def index(self, source: CsvSource, path: str, cache: str) -> SourceIndex:
        """Reads each file once, unless the cache has its index."""
        files = list_files(path, self.extensions)
        dialect, found = find_dialect(source, files[0].path, _start(files[0]))
        return _csv_index(path, index_lines(files, cache, dialect.row_rules, header=True), dialect, found)

    def index_beginning(self, source: CsvSource, path: str) -> SourceIndex:
        """The first file's first megabyte."""
        facts = list_files(path, self.extensions)[0]
        dialect, found = find_dialect(source, facts.path, _start(facts))
        return _csv_index(path, index_beginning(facts, dialect.row_rules, header=True), dialect, found)

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """One run of lines."""
        file, inner = index.place(group)
        text = read_range(file.path, file.marks[inner], file.marks[inner + 1])
        dialect, first = Dialect.model_validate_json(index.options["dialect"]), sum(file.rows[:inner])
        names = file.columns or index.schema.names
        return _whole(parse(text, names, index.schema, columns, dialect, file.path, first), file, inner)

    def contents(self, index: SourceIndex) -> list[Content]:
        """The files."""
        return file_contents(index)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first group's."""
        return self.read(index, 0, index.schema.names).slice(0, rows)


def _csv_index(
    path: str, indexed: tuple[DataFile, ...], dialect: Dialect, found: tuple[str, ...]
) -> SourceIndex:
    headers = [_header(file, dialect) for file in indexed]
    names = headers[0]
    found += match_columns([file.path for file in indexed], headers)
    indexed = tuple(
        file if own == names else file.model_copy(update={"columns": tuple(own)})
        for file, own in zip(indexed, headers, strict=True)
    )
    first = next((file for file in indexed if file.rows), None)
    if first is None:
        raise DataError(f"{path}: has no rows")
    beginning = read_range(first.path, first.marks[0], first.marks[1])
    schema = first_schema(beginning, first.columns or names, dialect, first.path)
    schema = pa.schema([schema.field(name) for name in names])
    return _source_index("csv", path, indexed, schema).model_copy(
        update={"options": {"dialect": dialect.model_dump_json()}, "found": found}
    )


def _header(file: DataFile, dialect: Dialect) -> list[str]:
    return header_names(read_range(file.path, 0, file.marks[0]), dialect, file.path)


class JsonLinesFormat:
    """A JSON object a line; fields that the first megabyte of the first file lacks are left out, and said where the first
    row of another file has them.
    """

    extensions = (".jsonl", ".ndjson", ".json")

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Reads each file once, unless the cache has its index."""
        files = list_files(path, self.extensions)
        return _json_index(path, index_lines(files, cache, JSON_LINES))

    def index_beginning(self, source: Any, path: str) -> SourceIndex:
        """The first file's first megabyte."""
        facts = list_files(path, self.extensions)[0]
        return _json_index(path, index_beginning(facts, JSON_LINES))

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """One run of lines."""
        file, inner = index.place(group)
        text = read_range(file.path, file.marks[inner], file.marks[inner + 1])
        return _whole(_parsed(text, index.schema, columns, file, inner), file, inner)

    def contents(self, index: SourceIndex) -> list[Content]:
        """The files."""
        return file_contents(index)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first group's."""
        return self.read(index, 0, index.schema.names).slice(0, rows)


def _json_index(path: str, indexed: tuple[DataFile, ...]) -> SourceIndex:
    first = next((file for file in indexed if file.rows), None)
    if first is None:
        raise DataError(f"{path}: has no rows")
    text = read_range(first.path, first.marks[0], first.marks[1])
    refuse_utf16(text, first.path)
    if text.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        raise DataError(
            f"{first.path}: is a JSON array, but rows are read as one object a line; write it so,"
            " e.g. jq -c '.[]' OLD > NEW.jsonl"
        )
    try:
        table = _parse_json(text)
    except pa.ArrowInvalid as error:
        raise _no_json_lines(first, 0, text, str(error)) from error
    if table.num_rows != first.rows[0]:
        raise _no_json_lines(first, 0, text, "is not one object a line")
    others = [file for file in indexed if file.rows and file is not first]
    found = further_columns(
        [first.path, *(file.path for file in others)],
        [table.column_names, *(_fields_of_first_row(file) for file in others)],
    )
    return _source_index("jsonl", path, indexed, table.schema).model_copy(update={"found": found})


def _fields_of_first_row(file: DataFile) -> list[str]:
    """None where that is no object, which reading it tells, or longer than 64 KB."""
    text = read_range(file.path, file.marks[0], min(file.marks[1], file.marks[0] + _FIRST_ROW_BYTES))
    line = next((line for line in text.splitlines() if line.strip()), b"")
    try:
        row = json_module.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        return []
    return list(row) if isinstance(row, dict) else []


def _source_index(kind: str, path: str, indexed: tuple[DataFile, ...], schema: pa.Schema) -> SourceIndex:
    count, size = sum(sum(file.rows) for file in indexed), sum(file.bytes for file in indexed)
    return SourceIndex(
        kind=kind,
        root=path,
        files=indexed,
        arrow_schema=schema_text(schema),
        row_bytes=max(8.0 * len(schema), size / count),
    )


def _start(facts: FileFacts) -> bytes:
    return read_range(facts.path, 0, min(row_groups.GROUP_BYTES, facts.bytes))


def _whole(table: pa.Table, file: DataFile, inner: int) -> pa.Table:
    if table.num_rows != file.rows[inner]:
        first = sum(file.rows[:inner])
        raise DataError(
            f"{file.path}: rows {first} to {first + file.rows[inner]} are {table.num_rows} now;"
            " a file must not change while it is trained on"
        )
    return table


def _parsed(text: bytes, schema: pa.Schema, columns: Sequence[str], file: DataFile, inner: int) -> pa.Table:
    try:
        return _parse_json(text, pa.schema([schema.field(name) for name in columns]))
    except pa.ArrowInvalid:
        pass
    # A column that began with whole numbers may have fractions further down.
    try:
        return _parse_json(text, pa.schema([_widened(schema.field(name)) for name in columns]))
    except pa.ArrowInvalid as error:
        raise _no_json_lines(file, sum(file.rows[:inner]), text, str(error)) from error


def _widened(field: pa.Field) -> pa.Field:
    return field.with_type(pa.float64()) if pa.types.is_integer(field.type) else field


def _parse_json(text: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """Rows of JSON, of all fields or of a schema's. Raises pa.ArrowInvalid, also for what is not UTF-8."""
    table = json.read_json(
        pa.BufferReader(text),
        read_options=json.ReadOptions(block_size=len(text) + 1, use_threads=False),
        parse_options=json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
        ),
    )
    try:
        _ = table.schema.names
    except UnicodeDecodeError as error:
        raise pa.ArrowInvalid(f"a field's name is not UTF-8 ({error.object[:40]!r})") from error
    table.validate(full=True)
    return table


def _no_json_lines(file: DataFile, first_row: int, text: bytes, otherwise: str) -> DataError:
    """Says which row is no JSON, or is not of the type that its column began with."""
    rows = [line for line in text.splitlines() if line.strip()]
    for row, line in enumerate(rows):
        try:
            value = json_module.loads(line)
        except ValueError as fault:
            return DataError(
                f"{file.path}, row {first_row + row}: is not a JSON object on one line ({fault}); write one object a"
                " line, e.g. jq -c . OLD > NEW.jsonl"
            )
        if not isinstance(value, dict):
            return DataError(f"{file.path}, row {first_row + row}: is {line[:60]!r}, not a JSON object")
    return DataError(f"{file.path}, rows {first_row} to {first_row + len(rows)}: {otherwise[:200]}")
