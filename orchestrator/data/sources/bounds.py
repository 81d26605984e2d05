"""Least and greatest of a column of whole numbers, where the format's own index doesn't tell: read once, kept in the cache."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.cache import remembered
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.index import SourceIndex

_LINES = ("csv", "jsonl")
"""Formats of which the column is read; the others know, or their labels are given."""
_THREADS = 4
_VERSION = 1
"""Of what is kept; raise it when ``_read_bounds`` finds something else."""


def with_bounds(index: SourceIndex, column: str, cache: str) -> SourceIndex:
    """The index with the column's bounds, where it is one of lines of text and the column holds whole numbers."""
    known = index.kind not in _LINES or column in index.bounds
    if known or column not in index.schema.names or not pa.types.is_integer(index.schema.field(column).type):
        return index
    key = [index.identity, column]
    least, greatest = remembered(cache, "column-bounds", _VERSION, key, lambda: _read_bounds(index, column))
    if least is None:
        return index
    return index.model_copy(update={"bounds": {**index.bounds, column: (int(least), int(greatest))}})


def _read_bounds(index: SourceIndex, column: str) -> tuple[float | None, float | None]:
    """Both None where no row has a value."""

    def of_group(group: int) -> tuple[float | None, float | None]:
        extremes = pc.min_max(format_of(index.kind).read(index, group, (column,))[column])
        return extremes["min"].as_py(), extremes["max"].as_py()

    with ThreadPoolExecutor(_THREADS) as pool:
        extremes = list(pool.map(of_group, range(len(index.group_rows))))
    least = [low for low, _ in extremes if low is not None]
    greatest = [high for _, high in extremes if high is not None]
    return (min(least), max(greatest)) if least else (None, None)
