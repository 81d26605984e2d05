"""Rows of a source by place: reads groups, keeps those still needed, and makes named tensors of chosen rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.data.formats import format_of
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.split import Selection
from orchestrator.data.tensors import TensorLayout, Values, decode_images, group_values, take
from orchestrator.data.transforms import Batch
from orchestrator.errors import DataError


class RowReader:
    """Reads rows of one source by (group, n-th selected row of the group)."""

    def __init__(self, source: PreparedSource) -> None:
        self._source = source
        self._format = format_of(source.index.kind)
        self._columns = tuple(
            dict.fromkeys(name for layout in source.layouts for name in layout.read_columns)
        )
        self._held: dict[int, tuple[dict[str, Values], np.ndarray | None]] = {}
        self.selection = Selection(source.part, source.index.group_rows)

    def keep(self, groups: set[int]) -> None:
        """Forget all other groups."""
        for group in self._held.keys() - groups:
            del self._held[group]

    def read(self, group: np.ndarray, nth: np.ndarray) -> Batch:
        """The tensors of some rows, in the order asked for, and their ``sample_id``.

        Args:
            group: int64 (N,).
            nth: int64 (N,): which of the group's selected rows.
        """
        index, count = self._source.index, len(group)
        by_group = np.argsort(group, kind="stable")
        groups, firsts = np.unique(group[by_group], return_index=True)
        pieces: list[tuple[int, np.ndarray, np.ndarray]] = []
        sample_id = np.empty(count, dtype=np.int64)
        for number, slots in zip(groups.tolist(), np.split(by_group, firsts[1:]), strict=True):
            _, selected = self._group(number)
            rows = nth[slots] if selected is None else selected[nth[slots]]
            sample_id[slots] = self._source.first_id + index.group_starts[number] + rows
            pieces.append((number, slots, rows))
        batch = {layout.name: self._tensor(layout, pieces, count) for layout in self._source.layouts}
        batch["sample_id"] = sample_id
        return batch

    def _group(self, number: int) -> tuple[dict[str, Values], np.ndarray | None]:
        held = self._held.get(number)
        if held is None:
            table = self._format.read(self._source.index, number, self._columns)
            where = self._where(number)
            values = {layout.name: group_values(table, layout, where) for layout in self._source.layouts}
            held = self._held[number] = values, self.selection.rows(number)
        return held

    def _where(self, group: int, rows: np.ndarray | None = None) -> Callable[[int], str]:
        return lambda row: self._source.index.where(group, row if rows is None else int(rows[row]))

    def _tensor(
        self, layout: TensorLayout, pieces: Sequence[tuple[int, np.ndarray, np.ndarray]], count: int
    ) -> np.ndarray:
        out = np.empty((count, *layout.shape), dtype=layout.carried)
        for number, slots, rows in pieces:
            chosen = take(self._group(number)[0][layout.name], rows)
            if layout.kind == "image":
                images = decode_images(chosen.to_pylist(), layout, self._where(number, rows))
                for slot, image in zip(slots.tolist(), images, strict=True):
                    out[slot] = image
            else:
                out[slots] = chosen
        if layout.kind == "image" and layout.carried == layout.dtype:
            out *= np.float32(1 / 255)
        return out


def refuse_text(batch: Batch) -> None:
    """After all transforms, only numbers may be left. Raises DataError."""
    for name, values in batch.items():
        if values.dtype == object:
            raise DataError(
                f"tensor {name!r} holds text; add a transform that turns it into numbers"
                f" (data.transforms: {{kind: encode, tensor: {name}}}), or leave it out of data.columns"
            )
