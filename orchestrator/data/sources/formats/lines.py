"""CSV and JSON lines: a small index of where rows begin is made once and kept in the cache; a run of whole rows is a group.

Making it reads the file once, at the speed of the storage; from then on any group is one read of its bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from orchestrator.data.cache import remembered
from orchestrator.data.files import FileFacts, locate, read_range, retrying
from orchestrator.data.sources.index import DataFile

GROUP_BYTES = 2**20
_SCAN_BYTES = 2**24
_THREADS = 8
_VERSION = 1
"""Of what is kept; raise it when ``scan`` finds something else."""
_NEWLINE, _RETURN, _QUOTE = 10, 13, 34

Rows = Literal["line", "csv"]
"""What one row is: a line that isn't empty; for ``csv`` line breaks within double quotes don't end it."""


def index_lines(
    files: list[FileFacts], cache: str, rows: Rows, *, header: bool = False
) -> tuple[DataFile, ...]:
    """Groups of whole rows, of about a megabyte each, of every file.

    Args:
        header: the first row is no data.
    """
    with ThreadPoolExecutor(min(_THREADS, len(files))) as pool:
        return tuple(pool.map(lambda facts: _indexed(facts, cache, rows, header), files))


def _indexed(facts: FileFacts, cache: str, rows: Rows, header: bool) -> DataFile:
    """The file's groups, from the cache if they were found before."""
    key = [facts.path, facts.bytes, facts.stamp, GROUP_BYTES, rows, header]
    entry = remembered(
        cache, "line-index", _VERSION, key, lambda: scan(facts, rows, header).model_dump(mode="json")
    )
    return DataFile.model_validate(entry)


def scan(facts: FileFacts, rows: Rows, header: bool, most: int | None = None) -> DataFile:
    """Read a file once and find its groups.

    Args:
        most: only look at so many bytes from its beginning, and leave a row that is cut there out.
    """
    digest = hashlib.sha256()
    marks: list[int] = [] if header else [0]
    counts: list[int] = []
    pending = end = 0
    for ends in _row_ends(facts, rows, digest, most if most is not None and most < facts.bytes else None):
        end = int(ends[-1])
        if not marks:
            marks.append(int(ends[0]))
            ends = ends[1:]
        while len(ends):
            # Rows up to the first that ends past the group's size.
            cut = int(np.searchsorted(ends, marks[-1] + GROUP_BYTES)) + 1
            if cut > len(ends):
                pending += len(ends)
                break
            counts.append(pending + cut)
            marks.append(int(ends[cut - 1]))
            ends, pending = ends[cut:], 0
    if pending:
        counts.append(pending)
        marks.append(end)
    return DataFile(
        path=facts.path,
        bytes=facts.bytes,
        stamp=facts.stamp,
        digest=digest.hexdigest()[:16],
        rows=tuple(counts),
        marks=tuple(marks or (0,)),
    )


def _row_ends(facts: FileFacts, rows: Rows, digest: Any, most: int | None) -> Iterator[np.ndarray]:
    """The byte after each row, a piece of the file at a time; hashes what it reads."""
    system, inner = locate(facts.path)
    cutter = _Cutter(rows)
    if most is not None:
        yield cutter.feed(np.frombuffer(read_range(facts.path, 0, most), dtype=np.uint8))
        return
    with retrying(lambda: system.open_input_stream(inner), facts.path) as stream:
        while piece := stream.read(_SCAN_BYTES):
            digest.update(piece)
            ends = cutter.feed(np.frombuffer(piece, dtype=np.uint8))
            if len(ends):
                yield ends
    last = cutter.finish()
    if len(last):
        yield last


@dataclass
class _Cutter:
    """Finds the ends of rows in pieces of a file that follow each other."""

    rows: Rows
    offset: int = 0
    line_start: int = 0
    quotes: int = 0
    last_byte: int = 0

    def feed(self, data: np.ndarray) -> np.ndarray:
        """Ends of rows that this piece decides, as bytes from the beginning of the file."""
        breaks = data == _NEWLINE
        if self.rows == "csv":
            quotes = np.cumsum(data == _QUOTE, dtype=np.int64) + self.quotes
            breaks &= quotes % 2 == 0
            self.quotes = int(quotes[-1] % 2)
        local = np.flatnonzero(breaks)
        ends = local + self.offset + 1
        starts = np.concatenate(([self.line_start], ends[:-1])) if len(ends) else ends
        empty = self._empty(data, local, ends - starts)
        self.offset += len(data)
        self.last_byte = int(data[-1])
        if not len(ends):
            return ends
        self.line_start = int(ends[-1])
        return ends[~empty]

    def _empty(self, data: np.ndarray, local: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        before = np.where(local > 0, data[np.maximum(local - 1, 0)], self.last_byte)
        return (lengths == 1) | ((lengths == 2) & (before == _RETURN))

    def finish(self) -> np.ndarray:
        """The end of the last row, where the file doesn't end with one."""
        return np.array([self.offset] if self.line_start < self.offset else [], dtype=np.int64)
