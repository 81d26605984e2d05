"""Values of a column to integers: categories of a table, names of classes. Fitted on training rows only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.errors import DataError


def fit_categories(column: pa.ChunkedArray | pa.Array, name: str) -> list[Any]:
    """The distinct values, sorted.

    Raises:
        DataError: A value is missing, or there are none.
    """
    values = pc.unique(column)
    if values.null_count:
        raise DataError(
            f"column {name!r} has missing values; {{kind: impute, by: category}} before encode makes them a category,"
            " {kind: drop} leaves such rows out"
        )
    if not len(values):
        raise DataError(f"column {name!r} has no rows to learn its values from")
    return pc.take(values, pc.sort_indices(values)).to_pylist()


def encode_categories(
    column: pa.ChunkedArray | pa.Array,
    values: Sequence[Any],
    name: str,
    *,
    unknown: int | None = None,
    unread: np.ndarray | None = None,
) -> np.ndarray:
    """Index of each value among ``values``, int64 (B,).

    Args:
        column: What to encode.
        values: As fitted.
        name: The column's name, for the message.
        unknown: Index of a value that isn't among them, or None: that is an error.
        unread: Which rows count nothing, whatever they hold; 0 where they hold what isn't among the values.

    Raises:
        DataError: A value is missing, or isn't among them and ``unknown`` is None.
    """
    index = pc.index_in(*_of_one_type(column, values, name))
    if unread is not None:
        index = pc.if_else(pc.and_(pc.is_null(index), pa.array(unread)), 0, index)
    if index.null_count:
        if unknown is None:
            strange = pc.unique(column.filter(pc.is_null(index))).to_pylist()
            raise DataError(
                f"column {name!r} has values that no training row has, for example"
                f" {', '.join(repr(v) for v in strange[:5])}: give unseen: unknown to its encoding, or mend the data"
            )
        index = pc.fill_null(index, unknown)
    return np.asarray(index.to_numpy(zero_copy_only=False)).astype(np.int64)


def _of_one_type(
    column: pa.ChunkedArray | pa.Array, values: Sequence[Any], name: str
) -> tuple[pa.ChunkedArray | pa.Array, pa.Array]:
    """The column and the fitted values, which come back from JSON in another width, without a change to either."""
    try:
        return column, pa.array(values, type=column.type)
    except (pa.ArrowException, OverflowError):
        pass  # the column's own type can't hold what training had
    known = pa.array(values)
    try:
        return pc.cast(column, known.type), known
    except pa.ArrowException:
        raise DataError(f"column {name!r} is {column.type}, but was {known.type} in training") from None
