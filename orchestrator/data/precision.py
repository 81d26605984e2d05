"""Numbers that float32, in which models compute, can't tell apart: said, since nothing else shows it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from orchestrator.data.columns.arrays import column_array, number_type, numbers
from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.index import SourceIndex

_ROWS = 1024
_COARSE = 0.01
"""Steps between neighbors in float32 that are a larger share of the values' deviation leave under two digits of it."""


def precision_notes(index: SourceIndex, layouts: tuple[TensorLayout, ...]) -> tuple[str, ...]:
    """A sentence for each column whose first values differ by less than float32 can say. Those that a transform computes
    with are carried with all their digits.
    """
    plain = [one for one in layouts if one.kind == "numbers" and one.dtype == one.carried == "float32"]
    return tuple(_coarse_columns(index, plain)) if plain else ()


def _coarse_columns(index: SourceIndex, layouts: list[TensorLayout]) -> Iterator[str]:
    head = format_of(index.kind).head(index, _ROWS)
    for layout in layouts:
        for name in layout.columns:
            column = column_array(head, name)
            kind = number_type(column.type)
            if kind is None or np.can_cast(kind.to_pandas_dtype(), np.float32):
                continue
            values = numbers(column, name, lambda row: index.where(0, row), missing=True).astype(np.float64)
            values = values[np.isfinite(values)]
            if not values.size or not (deviation := values.std()):
                continue
            step = float(np.spacing(np.abs(values).max().astype(np.float32)))
            if step > _COARSE * deviation:
                yield (
                    f"{index.root}: column {name!r} has values near {values[0]:.7g}, which float32 tells apart in steps of"
                    f" {step:g} only; {{kind: normalize, tensor: {layout.name}}} under data.transforms computes with all"
                    " their digits"
                )
