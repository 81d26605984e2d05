"""Transform of values that are no numbers: ``encode``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.categories import encode_categories, fit_categories
from orchestrator.data.mends import FILL_OR_DROP
from orchestrator.data.transforms import Batch, Fitted, sample_fault, tensor_of
from orchestrator.spec.transforms import Encode

_UNSEEN = -1


class _Distinct:
    """The distinct values of each column, batch by batch."""

    def __init__(self, section: Encode) -> None:
        self._section = section
        self._seen: list[pa.Array] = []

    def update(self, batch: Batch) -> None:
        """See one batch."""
        columns = [pc.unique(column) for column in _columns(tensor_of(batch, self._section.tensor, "encode"))]
        if self._seen:
            columns = [pc.unique(pa.concat_arrays(pair)) for pair in zip(self._seen, columns, strict=True)]
        self._seen = columns

    def result(self) -> dict[str, Any]:
        """Sorted values of each column."""
        return {"values": [fit_categories(column, self._section.tensor) for column in self._seen]}


class EncodeKind:
    """Values to their numbers."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Encode) -> _Distinct:
        """Distinct values."""
        return _Distinct(section)

    def apply(self, section: Encode, fitted: Fitted, batch: Batch) -> Batch:
        """int64, of the shape that came in."""
        values = tensor_of(batch, section.tensor, "encode")
        # What can't be read counts nothing, and is no category either.
        unread = batch["weight"] == 0 if "weight" in batch else None
        encoded = [
            encode_categories(
                column,
                known,
                section.tensor,
                unknown=len(known) if section.unseen == "unknown" else _UNSEEN,
                unread=unread,
            )
            for column, known in zip(_columns(values), fitted["values"], strict=True)
        ]
        out = encoded[0] if values.ndim == 1 else np.stack(encoded, axis=1)
        if (unseen := out == _UNSEEN).any():
            raise sample_fault(_unseen(values[unseen][0]), batch, section.tensor, unseen)
        return {**batch, section.tensor: out}

    def sizes(self, section: Encode, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """How many numbers a label or each categorical column can become."""
        counts = tuple(len(known) + (section.unseen == "unknown") for known in fitted["values"])
        if section.tensor == "label":
            return {"outputs": counts[0]} if len(counts) == 1 else {}
        return {"cardinalities": counts} if section.tensor == "categories" else {}


def _unseen(value: Any) -> str:
    if value is None or value != value:
        return f"has no value; {FILL_OR_DROP}"
    plain = value.item() if isinstance(value, np.generic) else value
    return f"has {plain!r}, which no training row has; give unseen: unknown to its encoding, or mend the row"


def _columns(values: np.ndarray) -> list[pa.Array]:
    """(B,) or (B, C) as Arrow arrays, one a column."""
    whole = values[:, None] if values.ndim == 1 else values
    kind = pa.string() if values.dtype == object else None
    return [pa.array(whole[:, column], type=kind) for column in range(whole.shape[1])]
