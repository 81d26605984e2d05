"""A split that keeps the rows of a group on one side: which groups are held out, and the file that marks their rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.cache import remembered, remembered_table
from orchestrator.data.held_out import held_out_rows
from orchestrator.data.preparations.places import place_of
from orchestrator.data.preparations.raw_rows import RawRows
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import MARK, Part, SourceRows
from orchestrator.data.sources.tables import one_column
from orchestrator.errors import DataError

_VERSION = 1
"""Of which groups are held out; raise it when they are others."""


def held_out_groups(
    index: SourceIndex, column: str, fraction: float, seed: int, cache: str
) -> tuple[Part, str]:
    """Rows of whole groups, as many as is nearest to a share of all rows; and a sentence with the counts.

    Raises:
        DataError: the source has no such column, a row has no value there, or all rows are of one group.
    """
    if column not in index.schema.names:
        raise DataError(
            f"data.eval.group: {index.root} has no column {column!r}; it has {', '.join(index.schema.names)}"
        )
    key = [index.identity, column, fraction, seed]

    def choose() -> dict[str, Any]:
        rows = Counter(name for names in _names(index, column) for name in names)
        if len(rows) < 2:
            raise DataError(
                f"data.eval.group: all rows of {index.root} have one value in {column!r}; split by another column"
            )
        held = nearest_groups(rows, held_out_rows(index.rows, fraction), seed)
        return {"held": held, "rows": sum(rows[name] for name in held), "groups": len(rows)}

    chosen: dict[str, Any] = remembered(cache, "whole-groups", _VERSION, key, choose)
    held = frozenset(chosen["held"])

    def write(path: str) -> None:
        marks = [np.array([name in held for name in names], dtype=bool) for names in _names(index, column)]
        pq.write_table(pa.table({MARK: np.concatenate(marks)}), path)

    path = remembered_table(cache, "whole-groups", _VERSION, key, write)
    note = (
        f"{index.root}: {len(held):,} of {chosen['groups']:,} groups of {column!r} are held out,"
        f" {chosen['rows']:,} of {index.rows:,} rows ({chosen['rows'] / index.rows:.1%})"
    )
    return Part(by="group", held_out=chosen["rows"], seed=seed, marks=path), note


def nearest_groups(rows: Mapping[str, int], wanted: int, seed: int) -> list[str]:
    """Names of groups that together have about ``wanted`` rows; at least one is chosen and one is not.

    Each is taken, in an order that the seed decides, if that comes nearer to the count; then one is added, left out or exchanged for
    another, again and again, as long as that comes nearer still.

    Args:
        rows: of each group; two groups or more.
        wanted: at least one, and fewer than all.
        seed: of the job.
    """
    names = sorted(rows, key=lambda name: (_hash(name, seed), name))
    sizes = np.array([rows[name] for name in names], dtype=np.int64)
    chosen = np.zeros(len(names), dtype=bool)
    missing = wanted
    for number, size in enumerate(sizes.tolist()):
        if size < 2 * missing:
            chosen[number], missing = True, missing - size
    while (exchange := _best_exchange(sizes, chosen, missing)) is not None:
        for number in exchange:
            missing += int(sizes[number]) if chosen[number] else -int(sizes[number])
            chosen[number] = not chosen[number]
    if chosen.all() or not chosen.any():
        smallest = int(sizes.argmin())
        chosen[smallest] = not chosen[smallest]
    return [name for name, is_held in zip(names, chosen.tolist(), strict=True) if is_held]


def _best_exchange(sizes: np.ndarray, chosen: np.ndarray, missing: int) -> list[int] | None:
    """The groups, at most one of each side, that change sides to come nearest; None where none comes nearer."""
    inside, outside = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    outside = outside[np.argsort(sizes[outside], kind="stable")]
    gone = np.concatenate(([0], sizes[inside]))
    come = np.concatenate(([0], sizes[outside]))  # ascending: no group has no rows
    above = np.searchsorted(come, gone + missing)
    nearest = abs(missing)
    best: list[int] | None = None
    for choice in (np.minimum(above, len(come) - 1), np.maximum(above - 1, 0)):
        left = np.abs(missing + gone - come[choice])
        which = int(left.argmin())
        if left[which] < nearest:
            nearest, other = int(left[which]), int(choice[which])
            best = [*inside[which - 1 : which].tolist(), *outside[other - 1 : other].tolist()]
    return best


def _hash(name: str, seed: int) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16, key=str(seed).encode()).digest()


def _names(index: SourceIndex, column: str) -> Iterator[list[str]]:
    """The group of each row, in the order of the files."""
    for table in RawRows([SourceRows(index, Part())], (column,), places=True):
        values = one_column(table, column)
        if values.null_count:
            row = int(pc.index(pc.is_null(values), True).as_py())
            raise DataError(
                f"{place_of(table, row)}: column {column!r} has no value there, so it is of no group"
            )
        try:
            if pa.types.is_floating(values.type):
                raise pa.ArrowTypeError("two such numbers are seldom equal")
            names: list[str] = pc.cast(values, pa.string()).to_pylist()
        except pa.ArrowException:
            raise DataError(
                f"data.eval.group: column {column!r} of {index.root} is {values.type}; groups are told apart by text, whole numbers,"
                " dates, or yes and no"
            ) from None
        yield names
