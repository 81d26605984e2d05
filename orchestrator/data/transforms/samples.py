"""Quantiles of columns from one pass over the training samples, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.data.hashing import mix_array

_MOST_VALUES = 2**24


class ColumnSamples:
    """Values of all samples, up to 16 million values; of more, of a share that hashes of their ids pick.

    The same samples give the same quantiles in whatever batches they come.
    """

    def __init__(self) -> None:
        self._ids: list[np.ndarray] = []
        self._columns: list[np.ndarray] = []
        self._values = 0
        self._mask = np.uint64(0)

    def update(self, sample_id: np.ndarray, columns: np.ndarray) -> None:
        """Values (B, columns); NaN is none."""
        ids = mix_array(0x9A17, sample_id)
        keep = (ids & self._mask) == 0
        self._ids.append(ids[keep])
        self._columns.append(columns[keep].astype(np.float64))
        self._values += self._columns[-1].size
        while self._values > _MOST_VALUES:
            self._halve()

    def _halve(self) -> None:
        self._mask = (self._mask << np.uint64(1)) | np.uint64(1)
        keep = [(ids & self._mask) == 0 for ids in self._ids]
        self._columns = [columns[kept] for columns, kept in zip(self._columns, keep, strict=True)]
        self._ids = [ids[kept] for ids, kept in zip(self._ids, keep, strict=True)]
        self._values = sum(columns.size for columns in self._columns)

    def quantiles(self, shares: Sequence[float]) -> np.ndarray:
        """(shares, columns), float64; NaN for a column without values."""
        columns = np.concatenate(self._columns)
        out = np.full((len(shares), columns.shape[1]), np.nan)
        for place in range(columns.shape[1]):
            values = columns[:, place]
            if len(values := values[~np.isnan(values)]):
                out[:, place] = np.quantile(values, shares)
        return out
