"""CSV: a small index of where lines begin is made once and kept in the cache; a run of whole lines is a group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from orchestrator.data.index import DataFile, SourceIndex, schema_text
from orchestrator.data.storage import FileFacts, exists, list_files, locate, read_range, retrying, write_whole
from orchestrator.errors import DataError

_GROUP_BYTES = 2**20
_SCAN_BYTES = 2**24
_NEWLINE, _QUOTE = 10, 34


class CsvFormat:
    """Comma-separated values with a header line; quoted fields may hold line breaks."""

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Reads each file once, unless the cache has its index. Types are those of the first file's beginning."""
        files = list_files(path, (".csv",))
        header, schema = _csv_schema(files[0].path)
        found = [line_index(facts, cache, quoted=True, header=True) for facts in files]
        for facts in files[1:]:
            other = _header(facts.path)
            if other != header:
                raise DataError(
                    f"{facts.path}: its header {other!r} is not that of {files[0].path}, {header!r}"
                )
        rows = sum(sum(file.rows) for file in found)
        if rows == 0:
            raise DataError(f"{path}: has no rows")
        return SourceIndex(
            kind="csv",
            root=path,
            files=tuple(found),
            arrow_schema=schema_text(schema),
            row_bytes=max(8.0 * len(schema), sum(file.bytes for file in found) / rows),
        )

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """One run of lines."""
        file, inner = index.place(group)
        text = read_range(file.path, file.marks[inner], file.marks[inner + 1])
        schema = index.schema
        try:
            table = csv.read_csv(
                pa.BufferReader(text),
                read_options=csv.ReadOptions(
                    column_names=schema.names, use_threads=False, block_size=max(len(text), 1) + 1
                ),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    column_types={name: schema.field(name).type for name in columns},
                    include_columns=list(columns),
                ),
            )
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{file.path}: rows {sum(file.rows[:inner])} to {sum(file.rows[: inner + 1])}: {str(error)[:200]}"
            ) from error
        if table.num_rows != file.rows[inner]:
            raise DataError(
                f"{file.path}: rows {sum(file.rows[:inner])} to {sum(file.rows[: inner + 1])} are not as many as when"
                " the run began; a file must not change while it is trained on"
            )
        return table

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first group's."""
        return self.read(index, 0, index.schema.names).slice(0, rows)


def _csv_schema(path: str) -> tuple[str, pa.Schema]:
    """Header line and types of the first megabyte."""
    start = read_range(path, 0, min(_GROUP_BYTES, _size(path)))
    whole = start[: start.rfind(b"\n") + 1] or start
    try:
        table = csv.read_csv(
            pa.BufferReader(whole),
            read_options=csv.ReadOptions(block_size=len(whole) + 1),
            parse_options=csv.ParseOptions(newlines_in_values=True),
        )
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: is not CSV ({str(error)[:200]})") from error
    # A column of whole numbers may have fractions further down, so it is read as float unless it is a small label.
    return _header(path), table.schema


def _header(path: str) -> str:
    return read_range(path, 0, min(2**16, _size(path))).split(b"\n", 1)[0].decode("utf-8-sig").strip()


def _size(path: str) -> int:
    system, inner = locate(path)
    return int(retrying(lambda: system.get_file_info(inner), path).size or 0)


def line_index(facts: FileFacts, cache: str, *, quoted: bool, header: bool) -> DataFile:
    """Groups of whole lines of a text file of about a megabyte each, from the cache if it was made before.

    Args:
        quoted: line breaks within double quotes do not end a row.
        header: the first row is no data.
    """
    key = hashlib.sha256(
        json.dumps([facts.path, facts.bytes, facts.stamp, _GROUP_BYTES, quoted, header]).encode()
    ).hexdigest()[:24]
    kept = f"{cache}/indexes/{key}.json"
    if exists(kept):
        return DataFile.model_validate_json(read_range(kept))
    made = _scan(facts, quoted, header)
    write_whole(kept, lambda draft: _write_text(draft, made.model_dump_json()))
    return made


def _write_text(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")


def _scan(facts: FileFacts, quoted: bool, header: bool) -> DataFile:
    digest = hashlib.sha256()
    marks: list[int] = []
    rows: list[int] = []
    pending, skip = 0, 1 if header else 0
    end = 0
    for lines_end in _line_ends(facts, quoted, digest):
        end = int(lines_end[-1])
        if skip:
            marks.append(int(lines_end[0]))
            lines_end, skip = lines_end[1:], 0
        elif not marks:
            marks.append(0)
        while len(lines_end):
            # Lines up to the first that passes the group's size.
            cut = int(np.searchsorted(lines_end, marks[-1] + _GROUP_BYTES)) + 1
            if cut > len(lines_end):
                pending += len(lines_end)
                break
            rows.append(pending + cut)
            marks.append(int(lines_end[cut - 1]))
            lines_end, pending = lines_end[cut:], 0
    if pending:
        rows.append(pending)
        marks.append(end)
    return DataFile(
        path=facts.path,
        bytes=facts.bytes,
        stamp=facts.stamp,
        digest=digest.hexdigest()[:16],
        rows=tuple(rows),
        marks=tuple(marks or (0,)),
    )


def _line_ends(facts: FileFacts, quoted: bool, digest: Any) -> Iterator[np.ndarray]:
    """Byte after each line that is not empty, a piece of the file at a time; hashes what it reads."""
    system, inner = locate(facts.path)
    offset, inside, last_end = 0, 0, 0
    with retrying(lambda: system.open_input_stream(inner), facts.path) as stream:
        while piece := stream.read(_SCAN_BYTES):
            digest.update(piece)
            data = np.frombuffer(piece, dtype=np.uint8)
            breaks = data == _NEWLINE
            if quoted:
                quotes = np.cumsum(data == _QUOTE, dtype=np.int64) + inside
                breaks &= quotes % 2 == 0
                inside = int(quotes[-1] % 2)
            ends = np.flatnonzero(breaks).astype(np.int64) + offset + 1
            offset += len(data)
            if len(ends):
                lengths = np.diff(ends, prepend=last_end)
                last_end = int(ends[-1])
                kept = ends[lengths > 1]
                if len(kept):
                    yield kept
    if last_end < offset:
        yield np.array([offset], dtype=np.int64)
