"""CSV text to Arrow tables, by a dialect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from orchestrator.data.sources.formats.dialect import Dialect, rows_of_text
from orchestrator.errors import DataError

_EXACT_BELOW = 2.0**53
"""Whole numbers below it are exact as float64."""


def header_names(line: bytes, dialect: Dialect, path: str) -> list[str]:
    """Names of the columns. One that comes twice, or that is empty, gets its place: ``b (column 3)``."""
    text = dialect.decoded(line, path).decode(errors="replace")
    names = next(rows_of_text(text, dialect.separator, dialect.quote), [])
    counts = Counter(names)
    return [
        name if name and counts[name] == 1 else f"{name} (column {place})".strip()
        for place, name in enumerate(names, 1)
    ]


def first_schema(text: bytes, names: Sequence[str], dialect: Dialect, where: str) -> pa.Schema:
    """Names and types of the columns, as these first rows show them. Raises DataError where they are no CSV."""
    try:
        table = _parsed(text, names, names, dict.fromkeys(dialect.text, pa.string()), dialect, where)
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: can't be read as CSV: {str(error)[:100]}") from error
    fields = []
    for place, field in enumerate(table.schema):
        kind = field.type
        if dialect.thousands and pa.types.is_string(kind) and field.name not in dialect.text:
            kind = _number_type(table.column(place), dialect)
        elif pa.types.is_floating(kind) and _inexact(table.column(place)):
            kind = _exact_type(_texts(text, names, [field.name], dialect, where).column(0))
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def parse(
    text: bytes,
    names: Sequence[str],
    schema: pa.Schema,
    columns: Sequence[str],
    dialect: Dialect,
    where: str,
    first_row: int,
) -> pa.Table:
    """Some columns of some rows, in the schema's types; of a column that began with whole numbers, as fractions where
    these rows have them.

    Args:
        names: of all the file's columns, in its order.

    Raises:
        DataError: a row has too many or too few columns, or a value is not of its column's type; with file and row.
    """
    types = {name: schema.field(name).type for name in columns}
    if not (dialect.thousands and any(_is_number(kind) for kind in types.values())):
        try:
            table = _parsed(text, names, columns, types, dialect, where, first_row)
        except pa.ArrowInvalid:
            pass  # the careful way tells which row and column it is
        else:
            return _with_missing_texts(table, dialect)
    texts = _texts(text, names, columns, dialect, where, first_row)
    arrays = []
    for place, (name, kind) in enumerate(types.items()):
        column = texts.column(place)
        try:
            arrays.append(_converted(column, kind, dialect))
        except pa.ArrowInvalid:
            row = _first_refused(column, kind, dialect)
            raise DataError(
                f"{where}, row {first_row + row}: column {name!r} has {column[row].as_py()!r}, but began with"
                f" {_described(kind)}; mend the row, or give the source missing: [...] or text: [{name}]"
            ) from None
    return pa.table(arrays, names=list(types))


def _parsed(
    text: bytes,
    names: Sequence[str],
    columns: Sequence[str],
    types: dict[str, pa.DataType],
    dialect: Dialect,
    where: str,
    first_row: int = 0,
) -> pa.Table:
    decoded = dialect.decoded(text, where)
    bad: list[arrow_csv.InvalidRow] = []

    def parsed(refuse: Callable[[arrow_csv.InvalidRow], str] | None) -> pa.Table:
        return arrow_csv.read_csv(
            pa.BufferReader(decoded),
            read_options=arrow_csv.ReadOptions(
                column_names=names, use_threads=False, block_size=len(decoded) + 1
            ),
            parse_options=arrow_csv.ParseOptions(
                delimiter=dialect.separator,
                quote_char=dialect.quote or False,
                newlines_in_values=bool(dialect.quote),
                invalid_row_handler=refuse,
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types,
                include_columns=list(columns),
                decimal_point=dialect.decimal,
                null_values=dialect.null_values,
            ),
        )

    def refuse(row: arrow_csv.InvalidRow) -> str:
        bad.append(row)
        return "error"

    try:
        return parsed(None)
    except pa.ArrowInvalid as error:
        _refuse_other_than_utf8(decoded, where)  # first, since Arrow can't hand over a row that is not
        with suppress(pa.ArrowInvalid):
            parsed(refuse)
        if not bad:
            raise
        row = bad[0]
        place = f", row {first_row + row.number - 1}" if row.number is not None else ""
        raise DataError(
            f"{where}{place}: has {row.actual_columns} columns, but the header has {row.expected_columns}:"
            f" {row.text[:100]!r}"
        ) from error


def _texts(
    text: bytes,
    names: Sequence[str],
    columns: Sequence[str],
    dialect: Dialect,
    where: str,
    first_row: int = 0,
) -> pa.Table:
    """Columns as they are written."""
    try:
        return _parsed(
            text, names, columns, dict.fromkeys(columns, pa.string()), dialect, where, first_row
        ).combine_chunks()
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: can't be read as text: {str(error)[:100]}") from error


def _refuse_other_than_utf8(text: bytes, where: str) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: is not UTF-8 text further down (byte {text[error.start]:#x} before {text[error.end : error.end + 20]!r});"
            " give the source its encoding"
        ) from None


def _with_missing_texts(table: pa.Table, dialect: Dialect) -> pa.Table:
    """An empty text is none."""
    if not any(pa.types.is_string(field.type) for field in table.schema):
        return table
    columns = [
        _text_or_missing(column, dialect) if pa.types.is_string(column.type) else column
        for column in table.columns
    ]
    return pa.table(columns, schema=table.schema)


def _text_or_missing(column: pa.ChunkedArray, dialect: Dialect) -> pa.ChunkedArray:
    absent = pc.is_in(column, value_set=pa.array(["", *dialect.missing]))
    return pc.if_else(absent, None, column) if pc.any(absent).as_py() else column


def _converted(column: pa.ChunkedArray, kind: pa.DataType, dialect: Dialect) -> pa.ChunkedArray:
    """Texts in a type. Raises pa.ArrowInvalid where one can't be."""
    if pa.types.is_string(kind):
        return _text_or_missing(column, dialect)
    trimmed = pc.utf8_trim_whitespace(column)
    values = pc.if_else(pc.is_in(trimmed, value_set=pa.array(dialect.null_values)), None, trimmed)
    if not _is_number(kind):
        return pc.cast(values, kind)
    if dialect.thousands:
        values = pc.replace_substring(values, dialect.thousands, "")
    if dialect.decimal != ".":
        values = pc.replace_substring(values, dialect.decimal, ".")
    try:
        return pc.cast(values, kind)
    except pa.ArrowInvalid:
        return pc.cast(values, pa.float64())


def _first_refused(column: pa.ChunkedArray, kind: pa.DataType, dialect: Dialect) -> int:
    """The first row that can't be converted, by halving."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _converted(column.slice(low, middle - low), kind, dialect)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low


def _number_type(column: pa.ChunkedArray, dialect: Dialect) -> pa.DataType:
    """Of a column of texts: numbers with thousands separators, or text."""
    try:
        return _converted(column, pa.int64(), dialect).type
    except pa.ArrowInvalid:
        return pa.string()


def _inexact(column: pa.ChunkedArray) -> bool:
    greatest = pc.max(pc.abs(column)).as_py()
    return greatest is not None and greatest >= _EXACT_BELOW


def _exact_type(column: pa.ChunkedArray) -> pa.DataType:
    """Of a column of large numbers: whole ones keep all their digits, as uint64 or as text."""
    digits = pc.all(pc.match_substring_regex(pc.fill_null(column, ""), r"^\s*[+-]?\d*\s*$")).as_py()
    if not digits:
        return pa.float64()
    values = pc.utf8_trim_whitespace(column)
    try:
        pc.cast(pc.if_else(pc.equal(values, ""), None, values), pa.uint64())
    except pa.ArrowInvalid:
        return pa.string()
    return pa.uint64()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _described(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numbers"
    return "true and false" if pa.types.is_boolean(kind) else f"values of type {kind}"
