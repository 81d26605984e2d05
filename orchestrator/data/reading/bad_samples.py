"""Samples that can't be read: left out, counted up to what the job allows, and named by file and row."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from orchestrator.data.prepared import PreparedSource
from orchestrator.data.transforms import Batch, SampleFault
from orchestrator.errors import DataError

_LOGGER = logging.getLogger(__name__)


def bad_samples_of(batch: Batch) -> list[int]:
    """Samples that came with weight zero though they are no padding: those that can't be read."""
    bad: list[int] = batch["sample_id"][(batch["weight"] == 0) & (batch["sample_id"] >= 0)].tolist()
    return bad


class BadSamples:
    """Counts the different samples that were left out, up to what is allowed."""

    def __init__(self, sources: Sequence[PreparedSource], most: int, ids: Collection[int] = ()) -> None:
        self._sources, self._most = sources, most
        self.ids = set(ids)

    def check(self, bad: Sequence[int]) -> None:
        """Count and log those that are new. Raises DataError once there are more than allowed."""
        for sample in bad:
            if sample in self.ids:
                continue
            self.count([sample])
            _LOGGER.warning(
                "skipped sample %d: %s (%d of at most %d)",
                sample,
                place_of(self._sources, sample),
                len(self.ids),
                self._most,
            )

    def count(self, samples: Collection[int]) -> None:
        """Add samples, those that were counted once only. Raises DataError once there are more than allowed."""
        for sample in samples:
            self.ids.add(sample)
            if len(self.ids) > self._most:
                raise DataError(
                    f"{place_of(self._sources, sample)} can't be read, and more than data.skip_bad_samples ({self._most}) samples"
                    " can't; mend the data, or allow more"
                )


@contextmanager
def placed(sources: Sequence[PreparedSource]) -> Iterator[None]:
    """Within it, a value that a transform can't use is named by file, row and column. Raises DataError."""
    try:
        yield
    except SampleFault as fault:
        layout = next((one for one in sources[0].layouts if one.name == fault.tensor), None)
        columns = () if layout is None else layout.columns
        # Others were made by transforms, or are of a list.
        own = layout is not None and (layout.shape in ((), (len(columns),)) and fault.column < len(columns))
        what = f"column {columns[fault.column]!r}" if own else f"tensor {fault.tensor!r}"
        raise DataError(f"{place_of(sources, fault.sample)}: {what} {fault}") from None


def place_of(sources: Sequence[PreparedSource], sample: int) -> str:
    """File and row of a training sample."""
    source = max((s for s in sources if s.first_id <= sample), key=lambda s: s.first_id)
    row = sample - source.first_id
    group = int(np.searchsorted(source.index.group_starts, row, side="right")) - 1
    return source.index.where(group, row - int(source.index.group_starts[group]))
