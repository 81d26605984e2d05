"""Rows of a source by place: reads groups, keeps those still needed, and makes named tensors of chosen rows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from orchestrator.data.columns.arrays import Values, group_values
from orchestrator.data.columns.encoded import decode, decoded_together
from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.split import Selection
from orchestrator.data.transforms import Batch
from orchestrator.errors import DataError

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Group:
    values: dict[str, Values]
    selected: np.ndarray | None
    """The rows of the group that belong to the part, None for all."""
    bad: np.ndarray | None
    """Which rows can't be read; None where that is an error."""


class RowReader:
    """Reads rows of one source by (group, n-th selected row of the group)."""

    def __init__(self, source: PreparedSource) -> None:
        self._source = source
        self._format = format_of(source.index.kind)
        self._columns = tuple(
            dict.fromkeys(name for layout in source.layouts for name in layout.read_columns)
        )
        self._groups: dict[int, _Group] = {}
        self.selection = Selection(source.part, source.index.group_rows)

    def keep(self, groups: set[int]) -> None:
        """Forget all other groups."""
        for group in self._groups.keys() - groups:
            del self._groups[group]

    def load(self, groups: Sequence[int]) -> None:
        """Read these now, so that they are there when they are needed."""
        for group in groups:
            self._group(group)

    def read(self, group: np.ndarray, nth: np.ndarray) -> Batch:
        """The tensors of some rows, in the order asked for, their ``sample_id``, and ``weight`` (N,) float32.

        The weight is 1, and 0 for a row that can't be read, where such rows are skipped; its tensors are then zero.

        Args:
            group: int64 (N,).
            nth: int64 (N,): which of the group's selected rows.
        """
        return self.fetch(group, nth).decode()

    def fetch(self, group: np.ndarray, nth: np.ndarray) -> FetchedRows:
        """The same rows as they lie in their groups, which are read where they are not in memory."""
        index = self._source.index
        by_group = np.argsort(group, kind="stable")
        groups, firsts = np.unique(group[by_group], return_index=True)
        pieces: list[_Piece] = []
        sample_id = np.empty(len(group), dtype=np.int64)
        for number, slots in zip(groups.tolist(), np.split(by_group, firsts[1:]), strict=True):
            loaded = self._group(number)
            rows = nth[slots] if loaded.selected is None else loaded.selected[nth[slots]]
            sample_id[slots] = self._source.first_id + index.group_starts[number] + rows
            pieces.append(_Piece(loaded, slots, rows, self._where(number)))
        return FetchedRows(self._source.layouts, sample_id, pieces)

    def _group(self, number: int) -> _Group:
        loaded = self._groups.get(number)
        if loaded is None:
            table = self._format.read(self._source.index, number, self._columns)
            bad = np.zeros(table.num_rows, dtype=bool) if self._source.skips_bad_samples else None
            values = {
                layout.name: self._values(table, layout, number, bad) for layout in self._source.layouts
            }
            loaded = self._groups[number] = _Group(values, self.selection.rows(number), bad)
        return loaded

    def _values(self, table: pa.Table, layout: TensorLayout, number: int, bad: np.ndarray | None) -> Values:
        """A group's values; where bad samples are skipped, row by row if need be, marking those that can't be read."""
        try:
            return group_values(table, layout, self._where(number))
        except DataError:
            if bad is None or layout.encoded:
                raise
        out = np.zeros((table.num_rows, *layout.shape), dtype=layout.carried)
        for row in range(table.num_rows):
            try:
                out[row] = group_values(table.slice(row, 1), layout, self._where(number, row))[0]
            except DataError as error:
                bad[row] = True
                _LOGGER.warning("%s; it is skipped", error)
        return out

    def _where(self, group: int, first: int = 0) -> Callable[[int], str]:
        """Says where a row of the group lies, counted from ``first``."""
        return lambda row: self._source.index.where(group, first + row)


@dataclass(frozen=True)
class _Piece:
    """Rows of one group."""

    group: _Group
    slots: np.ndarray
    """Where they go."""
    rows: np.ndarray
    where: Callable[[int], str]


@dataclass(frozen=True)
class FetchedRows:
    """Rows that lie in memory as their groups hold them. Needs no reader: another thread may decode them."""

    layouts: Sequence[TensorLayout]
    sample_id: np.ndarray
    pieces: Sequence[_Piece]

    def decode(self) -> Batch:
        """Their tensors; see ``RowReader.read``."""
        batch = {
            one.name: np.empty((len(self.sample_id), *one.shape), dtype=one.carried) for one in self.layouts
        }
        batch["sample_id"] = self.sample_id
        batch["weight"] = np.ones(len(self.sample_id), dtype=np.float32)
        together = decoded_together(self.layouts)
        for piece in self.pieces:
            if piece.group.bad is not None:
                batch["weight"][piece.slots[piece.group.bad[piece.rows]]] = 0
            for layout in self.layouts:
                if not layout.encoded:
                    batch[layout.name][piece.slots] = piece.group.values[layout.name][piece.rows]
            for layouts in together:
                _decode(piece, layouts, batch)
        for layout in self.layouts:
            if layout.kind == "image" and layout.carried == "float32":
                batch[layout.name] *= np.float32(1 / 255)
        return batch


def _decode(piece: _Piece, layouts: tuple[TensorLayout, ...], batch: Batch) -> None:
    """Tensors of a piece's rows, of a column of encoded bytes; sets the weight of those that can't be read to zero."""
    values = piece.group.values[layouts[0].name]
    # One by one: Arrow's ``take`` of a few rows costs more than all of them.
    for slot, row in zip(piece.slots.tolist(), piece.rows.tolist(), strict=True):
        made: tuple[np.ndarray | int, ...]
        try:
            made = decode(values[row].as_py(), layouts[0], piece.where, row)
        except DataError as error:
            if piece.group.bad is None:
                raise
            made = tuple(layout.blank for layout in layouts)
            batch["weight"][slot] = 0
            _LOGGER.warning("%s; it is skipped", error)
        for layout, tensor in zip(layouts, made, strict=False):
            batch[layout.name][slot] = tensor


def refuse_text(batch: Batch) -> None:
    """After all transforms, only numbers may be left. Raises DataError."""
    for name, values in batch.items():
        if values.dtype == object:
            raise DataError(
                f"tensor {name!r} holds text; add a transform that turns it into numbers"
                f" (data.transforms: {{kind: encode, tensor: {name}}}), or leave it out of data.columns"
            )
