"""CSV and JSON lines: a small index of where rows begin is made once and kept in the cache; a run of whole rows is a group.

Making it reads the file once, at the speed of the storage; from then on any group is one read of its bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from orchestrator.data.cache import remembered
from orchestrator.data.files import FileFacts, locate, read_range, retrying
from orchestrator.data.sources.formats import row_groups
from orchestrator.data.sources.formats.cutter import Cutter, RowRules
from orchestrator.data.sources.index import DataFile
from orchestrator.errors import DataError

_SCAN_BYTES = 2**24
_THREADS = 8
_VERSION = 4
"""Of what is kept; raise it when ``scan`` finds something else."""
JSON_LINES = RowRules(blank=b" \t\r\n")


def index_lines(
    files: list[FileFacts], cache: str, rules: RowRules, *, header: bool = False
) -> tuple[DataFile, ...]:
    """Groups of whole rows, of about a megabyte each, of every file.

    Args:
        header: the first row is no data.
    """
    with ThreadPoolExecutor(min(_THREADS, len(files))) as pool:
        return tuple(pool.map(lambda facts: _indexed(facts, cache, rules, header), files))


def index_beginning(facts: FileFacts, rules: RowRules, *, header: bool = False) -> tuple[DataFile]:
    """The same of a file's first megabyte, or more where no row ends there."""
    most = row_groups.GROUP_BYTES
    while sum((file := scan(facts, rules, header, most)).rows) == 0 and most < facts.bytes:
        most *= 16
    return (file,)


def _indexed(facts: FileFacts, cache: str, rules: RowRules, header: bool) -> DataFile:
    """The file's groups, from the cache if they were found before."""
    key = [facts.path, facts.bytes, facts.stamp, row_groups.GROUP_BYTES, repr(rules), header]
    entry = remembered(
        cache, "line-index", _VERSION, key, lambda: scan(facts, rules, header).model_dump(mode="json")
    )
    return DataFile.model_validate(entry)


def scan(facts: FileFacts, rules: RowRules, header: bool, most: int | None = None) -> DataFile:
    """Read a file once and find its groups.

    Args:
        most: only look at so many bytes from its beginning, and leave a row that is cut there out.

    Raises:
        DataError: a quoted field never ends.
    """
    digest = hashlib.sha256()
    pieces = _row_ends(facts, rules, digest, most if most is not None and most < facts.bytes else None)
    return row_groups.grouped(facts, pieces, digest, header=header)


def _row_ends(facts: FileFacts, rules: RowRules, digest: Any, most: int | None) -> Iterator[np.ndarray]:
    """The byte after each row, a piece of the file at a time; hashes what it reads."""
    cutter = Cutter(rules)
    for piece in _pieces(facts, digest, most):
        if len(ends := cutter.feed(np.frombuffer(piece, dtype=np.uint8))):
            yield ends
    if most is not None:
        return
    if len(last := cutter.finish()):
        yield last
    if cutter.quoted:
        raise DataError(
            f"{facts.path}: the quoted field that begins at byte {cutter.opened} never ends; close it, or give the"
            ' source quote: "" if quotes are letters like any other'
        )


def _pieces(facts: FileFacts, digest: Any, most: int | None) -> Iterator[bytes]:
    if most is not None:
        yield read_range(facts.path, 0, most)
        return
    system, inner = locate(facts.path)
    with retrying(lambda: system.open_input_stream(inner), facts.path) as stream:
        while piece := stream.read(_SCAN_BYTES):
            digest.update(piece)
            yield piece
