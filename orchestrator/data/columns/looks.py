"""What encoded images or sounds of a source are, from many of them, never from one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa

from orchestrator.data.columns.arrays import column_array, encoded_bytes
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.index import SourceIndex
from orchestrator.errors import DataError

Facts = TypeVar("Facts")

_LOOK_BYTES = 2**26
_LOOK_GROUPS = 16
_LOOK_ROWS = 256
"""At most so many bytes, groups, spread over the source, and rows in each are looked at."""


def looked_at(
    index: SourceIndex,
    column: str,
    read: tuple[str, ...],
    facts_of: Callable[[bytes | None, Callable[[], str]], Facts],
) -> dict[tuple[int, int], Facts]:
    """Facts by group and row of the first image or sound, and of those of others that can be opened: a bad one is said when
    it is read.

    Args:
        facts_of: (encoded, where it is) -> what it is; raises DataError.

    Raises:
        DataError: the first can't be opened, or is missing.
    """
    facts: dict[tuple[int, int], Facts] = {}
    for group, values in _spread(index, column, read):
        for row in range(min(_LOOK_ROWS, len(values))):
            try:
                facts[group, row] = facts_of(values[row].as_py(), partial(index.where, group, row))
            except DataError:
                if not facts:
                    raise
    return facts


def _spread(index: SourceIndex, column: str, read: tuple[str, ...]) -> Iterator[tuple[int, pa.Array]]:
    """Values of groups from all over the source; of the first one's beginning where groups are very large."""
    reader, filled = format_of(index.kind), np.flatnonzero(index.group_rows)
    fitting = int(_LOOK_BYTES / max(1.0, index.row_bytes * float(index.group_rows[filled].mean())))
    if fitting == 0:
        yield int(filled[0]), encoded_bytes(column_array(reader.head(index, _LOOK_ROWS), column))
        return
    places = np.linspace(0, len(filled) - 1, min(len(filled), _LOOK_GROUPS, fitting)).astype(int)
    for group in filled[np.unique(places)].tolist():
        yield group, encoded_bytes(column_array(reader.read(index, group, read), column))
