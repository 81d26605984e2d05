"""Preparation that keeps some rows: ``select``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.preparations.text_columns import named_column
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import SourceRows
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Select


class SelectKind:
    """Rows by the value of a column."""

    version = 1
    places = False

    def fingerprint(self, section: Select, base_dir: str) -> str:
        """Nothing beside."""
        return ""

    def columns(self, section: Select, schema: pa.Schema) -> None:
        """All."""

    def required(self, section: Select) -> dict[str, bool]:
        """None: rows are kept as they are."""
        return {}

    def unfit(self, section: Select, base_dir: str, table: pa.Table) -> dict[int, str]:
        """None: what has a value is a sample."""
        return {}

    def too_long(self, section: Select, fitted: Mapping[str, Any], table: pa.Table) -> dict[int, str]:
        """None: nothing has a length."""
        return {}

    def cut(self, section: Select, source: SourceRows) -> None:
        """A row's number says of which part it is."""

    def notes(
        self, section: Select, fitted: Mapping[str, Any], indexes: Sequence[SourceIndex]
    ) -> tuple[str, ...]:
        """None."""
        return ()

    def fit(self, section: Select, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """Nothing to learn."""
        return {}

    def build(
        self, section: Select, fitted: Mapping[str, Any], tables: Iterable[pa.Table]
    ) -> Iterator[pa.Table]:
        """The kept rows as they are."""
        for table in tables:
            column = named_column(table, section.column)
            try:
                named = pc.is_in(
                    column, value_set=pa.array(section.only or section.without).cast(column.type)
                )
            except pa.ArrowException:
                raise DataError(
                    f"data.prepare: column {section.column!r} is {column.type}, which none of the named values is"
                ) from None
            yield table.filter(named if section.only else pc.invert(named))

    def dims(self, section: Select, fitted: Mapping[str, Any]) -> dict[str, int]:
        """None."""
        return {}

    def lists(self, section: Select, fitted: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}

    def dims_before(self, section: Select, base_dir: str) -> dict[str, int]:
        """None."""
        return {}

    def lists_before(self, section: Select, base_dir: str) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}
