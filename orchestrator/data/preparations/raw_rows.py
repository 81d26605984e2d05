"""Raw rows in the order of their files, a table for each group of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa

from orchestrator.data.columns.arrays import missing_in
from orchestrator.data.preparations.places import with_places
from orchestrator.data.preparations.text_columns import named_column
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.split import Part, Selection, SourceRows
from orchestrator.errors import DataError

_LOGGER = logging.getLogger(__name__)


Unfit = Callable[[pa.Table], Mapping[int, str]]
"""Rows of a table that are no samples: number in it -> what is wrong."""


class Cut(Protocol):
    """What takes a part's rows out of all rows of a source, where that is not decided by their number alone."""

    def kept(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """All rows come in, in order; those of the part come out."""
        ...


class Required:
    """Columns in which every row needs a value, and what it must be: one that lacks it is an error, or left out, up to so
    many.
    """

    def __init__(self, columns: Mapping[str, bool], most: int, *unfit: Unfit) -> None:
        self._columns, self._most, self._unfit = columns, most, unfit
        self._left_out: set[str] = set()

    def and_fit(self, unfit: Unfit) -> Required:
        """The same, which leaves these out as well; what was left out already counts no second time."""
        stricter = Required(self._columns, self._most, *self._unfit, unfit)
        stricter._left_out = self._left_out
        return stricter

    def complete(
        self, table: pa.Table, rows: np.ndarray | None, where: Callable[[int], str]
    ) -> np.ndarray | None:
        """Those of some rows (None: all) that have all values. Raises DataError once there are too many others."""
        for name, may_be_blank in self._columns.items():
            column = named_column(table, name).combine_chunks()
            missing = missing_in(column, blank=not may_be_blank).to_numpy(zero_copy_only=False)
            if not missing.any():
                continue
            chosen = np.arange(table.num_rows) if rows is None else rows
            for row in chosen[missing[chosen]].tolist():
                mend = ", and data.prepare comes before data.transforms: write one"
                self._leave_out(where(row), f"column {name!r} has no value there", mend)
            rows = chosen[~missing[chosen]]
        for unfit in self._unfit:
            chosen = np.arange(table.num_rows) if rows is None else rows
            found = unfit(table if rows is None else table.take(pa.array(rows)))
            for place, problem in sorted(found.items()):
                self._leave_out(where(int(chosen[place])), problem, "; mend it")
            rows = np.delete(chosen, list(found)) if found else rows
        return rows

    def _leave_out(self, place: str, problem: str, mend: str) -> None:
        if place in self._left_out:
            return
        self._left_out.add(place)
        if len(self._left_out) > self._most:
            raise DataError(
                f"{place}: {problem}{mend}, leave the row out, or have data.skip_bad_samples (now {self._most})"
                " allow some"
            )
        _LOGGER.warning("%s: %s; the row is skipped", place, problem)


class RawRows:
    """The rows of some parts of sources, group by group. Can be iterated again.

    Args:
        columns: which are read; None for all.
        places: also say where each row lies (``places``).
        cut: picks the rows, instead of the sources' parts.
        required: leaves out, or refuses, rows that lack a value.
    """

    def __init__(
        self,
        sources: Sequence[SourceRows],
        columns: tuple[str, ...] | None,
        *,
        places: bool = False,
        cut: Cut | None = None,
        required: Required | None = None,
    ) -> None:
        self._sources, self._columns, self._places, self._cut = sources, columns, places, cut
        self._required = required

    def __iter__(self) -> Iterator[pa.Table]:
        for source in self._sources:
            if self._cut is None:
                yield from self._rows(source)
            else:
                yield from self._cut.kept(self._rows(SourceRows(source.index, Part())))

    def _rows(self, source: SourceRows) -> Iterator[pa.Table]:
        index, part = source.index, source.part
        selection, reader = Selection(part, index.group_rows), format_of(index.kind)
        there = index.schema.names
        columns = self._columns or tuple(there)
        for name in self._columns or ():
            if name not in there:
                raise DataError(
                    f"data.prepare: {index.root} has no column {name!r}; it has {', '.join(there)}"
                )
        for group, count in enumerate(selection.counts.tolist()):
            if count:
                table, rows = reader.read(index, group, columns), selection.rows(group)
                if self._required is not None:
                    rows = self._required.complete(table, rows, partial(index.where, group))
                if self._places:
                    file, inner = index.place(group)
                    table = with_places(table, file.path, sum(file.rows[:inner]))
                yield table if rows is None else table.take(pa.array(rows))
