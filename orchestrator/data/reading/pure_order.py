"""Which samples a step has, by the order alone: what training is held against. Nothing is read."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.data.order import EpochOrder
from orchestrator.data.prepared import Prepared, PreparedSource
from orchestrator.data.sources.split import Selection


def samples_by_step(prepared: Prepared, *, seed: int, steps: int) -> Iterator[list[int]]:
    """Ids of the samples of each global batch, from the first step on; padding is left out.

    Args:
        prepared: the run's data.
        seed: ``training.seed``.
        steps: how many.
    """
    sources = [_SourceOrder(source, seed) for source in prepared.train]
    for step in range(steps):
        yield [number for source in sources for number in source.samples_of(step)]


class _SourceOrder:
    def __init__(self, source: PreparedSource, seed: int) -> None:
        assert source.order is not None
        self._source, self._shape, self._seed = source, source.order, seed
        self._selection = Selection(source.part, source.index.group_rows)
        self._number = -1
        self._order: EpochOrder | None = None

    def samples_of(self, step: int) -> list[int]:
        epoch, inside = divmod(step, self._shape.steps)
        places = self._epoch(epoch).locate(inside, inside + 1, 0, self._shape.batch)
        found = []
        for group, nth, is_real in zip(places.group[0], places.nth[0], places.real[0], strict=True):
            if is_real:
                rows = self._selection.rows(int(group))
                row = nth if rows is None else rows[nth]
                found.append(int(self._source.first_id + self._source.index.group_starts[int(group)] + row))
        return found

    def _epoch(self, number: int) -> EpochOrder:
        if self._order is None or number != self._number:
            self._number = number
            self._order = EpochOrder(self._shape, self._selection.counts, seed=self._seed, epoch=number)
        return self._order
