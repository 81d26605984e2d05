"""Steps that rewrite raw rows into other samples before training: packing text into sequences, cutting series.

A preparation turns the source's rows into a Parquet data set in the cache, once; training then reads that like
any other, so its samples (sequences, windows) have identities that no number of workers changes. Held-out rows are
split off *before* it, and what is fitted is fitted on the training rows only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa

from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import SourceRows
from orchestrator.registry import load
from orchestrator.spec.preparations import Preparation

PREPARATIONS: dict[str, str] = {
    "pack": "orchestrator.data.preparations.pack:PackKind",
    "tokenize": "orchestrator.data.preparations.tokenize:TokenizeKind",
    "pairs": "orchestrator.data.preparations.pairs:PairsKind",
    "conversations": "orchestrator.data.preparations.conversations:ConversationsKind",
    "windows": "orchestrator.data.preparations.series:WindowsKind",
    "select": "orchestrator.data.preparations.select:SelectKind",
}
"""Kind of preparation -> ``module:class`` of its ``PreparationKind``, imported on use."""


class PreparationKind(Protocol):
    """What one kind of preparation does. Without state: made anew from its class for each use."""

    version: int
    """Part of the cache's key: raise it when the output changes for the same input."""

    def fingerprint(self, section: Any, base_dir: str) -> str:
        """What the outcome depends on beside section and rows: the contents of files that the section names."""
        ...

    places: bool
    """Whether the tables say where each row lies (``preparations.places``)."""

    def columns(self, section: Any, schema: pa.Schema) -> tuple[str, ...] | None:
        """The source's columns that are read; None for all."""
        ...

    def required(self, section: Any) -> dict[str, bool]:
        """Columns without whose value a row is no sample, each with whether a blank text is a value."""
        ...

    def unfit(self, section: Any, base_dir: str, table: pa.Table) -> dict[int, str]:
        """Rows of a table that have a value and yet are no samples: number in the table -> what is wrong."""
        ...

    def too_long(self, section: Any, fitted: dict[str, Any], table: pa.Table) -> dict[int, str]:
        """Likewise those that don't fit into the lengths which the section gives, as what was learned tells. Asked where bad
        rows may be skipped; ``build`` refuses them otherwise.
        """
        ...

    def cut(self, section: Any, source: SourceRows) -> Any:
        """A ``SeriesCut`` of a source that is split, where rows need their neighbors and so each series has an end of its
        own; None where the rows' numbers alone say of which part they are.
        """
        ...

    def notes(self, section: Any, fitted: dict[str, Any], indexes: Sequence[SourceIndex]) -> tuple[str, ...]:
        """What it takes for granted that the job does not say, in sentences for the plan's notes."""
        ...

    def fit(self, section: Any, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """Learn from the training rows (in file order), once; JSON-able. Empty where nothing is learned.

        ``tables`` may be iterated more than once.
        """
        ...

    def build(self, section: Any, fitted: dict[str, Any], tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The new rows, from the raw rows in file order: fixed-size lists or tensor columns, all of one schema."""
        ...

    def dims(self, section: Any, fitted: dict[str, Any]) -> dict[str, int]:
        """Sizes that a model takes from the data (``vocabulary``, ``context`` ...)."""
        ...

    def lists(self, section: Any, fitted: dict[str, Any]) -> dict[str, tuple[int, ...]]:
        """Sizes of which there are several (``special_tokens``)."""
        ...

    def dims_before(self, section: Any, base_dir: str) -> dict[str, int]:
        """Those that are known from the section alone, before anything is read; used by ``plan``. A size that is
        fitted (``vocabulary``) is the most that it can become.
        """
        ...

    def lists_before(self, section: Any, base_dir: str) -> dict[str, tuple[int, ...]]:
        """Likewise."""
        ...


def kind_of(section: Preparation) -> PreparationKind:
    """The implementation of a preparation's section (``data.prepare`` of the job)."""
    kind: PreparationKind = load(PREPARATIONS, section.kind, "preparation")()
    return kind
