"""Which rows of each group are for training and which are held out: an exact count, and nothing the size of the data; or rows that are
marked in a file of the cache, where a column's values stay together.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from orchestrator.data.files import read_range
from orchestrator.data.hashing import feistel, mix
from orchestrator.data.sources.index import SourceIndex


@dataclass(frozen=True)
class Part:
    """A part of a source's rows. ``by="all"``: every row."""

    by: Literal["all", "hash", "position", "group"] = "all"
    held_out: int = 0
    """Rows held out of the whole source."""
    seed: int = 0
    evaluation: bool = False
    """The held-out rows, or the others."""
    marks: str = ""
    """By group: the Parquet file that says of each row of the source whether it is held out (``MARK``), named by all that decides it."""

    @property
    def key(self) -> list[Any]:
        """What rows those are, wherever the cache lies."""
        marks = [self.marks.rpartition("/")[2]] if self.marks else []
        return [self.by, self.held_out, self.seed, self.evaluation, *marks]


MARK = "held_out"
"""Column of a file of marks."""


@dataclass(frozen=True)
class SourceRows:
    """Some rows of a source."""

    index: SourceIndex
    """The source's files and groups."""
    part: Part
    """Which of their rows."""


class Selection:
    """The rows of a part, group by group."""

    def __init__(self, part: Part, group_rows: np.ndarray) -> None:
        self._part, self._rows = part, group_rows
        self._held = _held_out_by_group(part, group_rows)
        self.counts = self._held if part.evaluation else group_rows - self._held
        """Selected rows of each group, int64."""

    def rows(self, group: int) -> np.ndarray | None:
        """The selected rows of a group, ascending; None for all of them."""
        size, held = int(self._rows[group]), int(self._held[group])
        if self.counts[group] == size:
            return None
        if self._part.by == "group":
            end = int(self._rows[: group + 1].sum())
            inside = _marks(self._part.marks)[end - size : end]
        elif self._part.by == "position":
            inside = np.arange(size) >= size - held
        else:
            inside = feistel(mix(self._part.seed, group, 0x5917), size, np.arange(size)) < held
        return np.flatnonzero(inside == self._part.evaluation)


def _held_out_by_group(part: Part, group_rows: np.ndarray) -> np.ndarray:
    if part.by == "all":
        return np.zeros_like(group_rows) if not part.evaluation else group_rows.copy()
    total = int(group_rows.sum())
    if part.by == "position":
        ends = np.cumsum(group_rows)
        return np.clip(ends - (total - part.held_out), 0, group_rows)
    if part.by == "group":
        marked_before = np.concatenate(([0], np.cumsum(_marks(part.marks))))
        ends = np.cumsum(group_rows)
        return marked_before[ends] - marked_before[ends - group_rows]
    # Each group gives its share, rounded so that the shares add up to the exact count; Python's whole
    # numbers, since rows times rows passes 64 bits.
    held, before, given = np.empty_like(group_rows), 0, 0
    for group, rows in enumerate(group_rows.tolist()):
        before += rows
        upto = before * part.held_out // total
        held[group], given = upto - given, upto
    return held


@lru_cache(maxsize=4)
def _marks(path: str) -> np.ndarray:
    """Whether each row of a source is held out, bool."""
    marks: np.ndarray = pq.read_table(io.BytesIO(read_range(path)), columns=[MARK])[MARK].to_numpy()
    return marks
