"""Plain text: a row is a line, a paragraph or a whole file; a run of whole rows of about a megabyte is a group."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data.cache import remembered
from orchestrator.data.files import FileFacts, locate, read_range, retrying
from orchestrator.data.listing import list_files
from orchestrator.data.sources.formats import row_groups
from orchestrator.data.sources.index import Content, DataFile, SourceIndex, file_contents, schema_text
from orchestrator.errors import DataError

_SCAN_BYTES = 2**24
_NEWLINE = 10
_VERSION = 2
"""Of what is kept; raise it when ``_scanned`` finds something else."""
_EMPTY_LINES = re.compile(rb"\n[ \t\r]*\n(?:[ \t\r]*\n)*")
"""What a paragraph ends with; it belongs to the paragraph."""

_SCHEMA = pa.schema([("text", pa.large_string())])


class TextFormat:
    """Rows of one column, ``text``. Lines and paragraphs one after the other are the file, to the last byte."""

    extensions: tuple[str, ...] = ()

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Reads each file once, unless the cache has its index."""
        files = [facts for facts in list_files(path, ()) if facts.bytes]
        if not files:
            raise DataError(f"{path}: holds no text, its files are empty")
        indexed = tuple(_indexed(facts, source.rows, cache) for facts in files)
        rows = sum(sum(file.rows) for file in indexed)
        return SourceIndex(
            kind="text",
            root=path,
            files=indexed,
            arrow_schema=schema_text(_SCHEMA),
            row_bytes=sum(file.bytes for file in indexed) / rows,
            options={"rows": source.rows},
        )

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """One run of rows."""
        file, inner = index.place(group)
        first = file.marks[inner]
        content = read_range(file.path, first, file.marks[inner + 1])
        ends = _row_ends(content, index.options["rows"], last=True)
        if len(ends) != file.rows[inner]:
            raise DataError(
                f"{file.path}: has not the rows that it had when the run began; a file must not change while it is"
                " trained on"
            )
        texts = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(),
            len(ends),
            [None, pa.py_buffer(np.concatenate([[0], ends]).astype(np.int64)), pa.py_buffer(content)],
        )
        try:
            return pa.table({"text": texts.cast(pa.large_string())}, schema=_SCHEMA).select(list(columns))
        except pa.ArrowInvalid:
            raise DataError(f"{file.path}: {_bad_byte(content, first)}; write the file as UTF-8") from None

    def index_beginning(self, source: Any, path: str) -> SourceIndex:
        """The first file's first megabyte."""
        facts = next(facts for facts in list_files(path, ()) if facts.bytes)
        content = read_range(facts.path, 0, min(row_groups.GROUP_BYTES, facts.bytes))
        if (
            len(content) < facts.bytes
        ):  # not in the middle of a character: those bytes begin with 10 in binary
            content = content[
                : max(i for i in range(len(content) - 4, len(content)) if content[i] & 0xC0 != 0x80)
            ]
        ends = _row_ends(content, source.rows, last=True)
        file = DataFile(path=facts.path, bytes=facts.bytes, rows=(len(ends),), marks=(0, int(ends[-1])))
        return SourceIndex(
            kind="text",
            root=path,
            files=(file,),
            arrow_schema=schema_text(_SCHEMA),
            row_bytes=1,
            options={"rows": source.rows},
        )

    def contents(self, index: SourceIndex) -> list[Content]:
        """The files."""
        return file_contents(index)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first group's."""
        return self.read(index, 0, ("text",)).slice(0, rows)


def _bad_byte(content: bytes, first: int) -> str:
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return f"byte {first + error.start} is not UTF-8"
    return "a character is cut in two"


def _indexed(facts: FileFacts, rows: str, cache: str) -> DataFile:
    """The file's groups, from the cache if they were found before."""
    key = [facts.path, facts.bytes, facts.stamp, row_groups.GROUP_BYTES, rows]
    entry = remembered(
        cache, "text-index", _VERSION, key, lambda: _scanned(facts, rows).model_dump(mode="json")
    )
    return DataFile.model_validate(entry)


def _scanned(facts: FileFacts, rows: str) -> DataFile:
    digest = hashlib.sha256()
    return row_groups.grouped(facts, _all_row_ends(facts, rows, digest), digest)


def _all_row_ends(facts: FileFacts, rows: str, digest: Any) -> Iterator[np.ndarray]:
    """Byte after each row, a piece of the file at a time; hashes what it reads."""
    system, inner = locate(facts.path)
    rest, offset = b"", 0
    with retrying(lambda: system.open_input_stream(inner), facts.path) as stream:
        while piece := stream.read(_SCAN_BYTES):
            digest.update(piece)
            rest += piece
            ends = _row_ends(rest, rows, last=False)
            if len(ends):
                yield ends + offset
                offset += int(ends[-1])
                rest = rest[int(ends[-1]) :]
    if rest:
        yield _row_ends(rest, rows, last=True) + offset


def _row_ends(content: bytes, rows: str, *, last: bool) -> np.ndarray:
    """Byte after each row, int64. An end that touches the content's is only sure where it is the ``last``."""
    ends = np.empty(0, dtype=np.int64)
    if rows == "line":
        ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == _NEWLINE) + 1
    elif rows == "paragraph":
        ends = np.array([match.end() for match in _EMPTY_LINES.finditer(content)], dtype=np.int64)
        if not last:  # what follows may still be an empty line
            ends = ends[ends < len(content.rstrip(b" \t\r\n"))]
    if last and (not len(ends) or ends[-1] < len(content)):
        ends = np.append(ends, len(content))
    return ends.astype(np.int64)
