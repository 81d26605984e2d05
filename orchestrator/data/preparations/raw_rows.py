"""Raw rows in the order of their files, a table for each group of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from orchestrator.data.preparations.places import with_places
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.split import Part, Selection, SourceRows
from orchestrator.errors import DataError


class Cut(Protocol):
    """What takes a part's rows out of all rows of a source, where that is not decided by their number alone."""

    def kept(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """All rows come in, in order; those of the part come out."""
        ...


class RawRows:
    """The rows of some parts of sources, group by group. Can be iterated again.

    Args:
        columns: which are read; None for all.
        places: also say where each row lies (``places``).
        cut: picks the rows, instead of the sources' parts.
    """

    def __init__(
        self,
        sources: Sequence[SourceRows],
        columns: tuple[str, ...] | None,
        *,
        places: bool = False,
        cut: Cut | None = None,
    ) -> None:
        self._sources, self._columns, self._places, self._cut = sources, columns, places, cut

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
                if self._places:
                    file, inner = index.place(group)
                    table = with_places(table, file.path, sum(file.rows[:inner]))
                yield table if rows is None else table.take(pa.array(rows))
