"""Evaluation, chunk by chunk: each rank's share of the set, in the order of its files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orchestrator.data.hashing import sample_seeds
from orchestrator.data.order import RowSpace
from orchestrator.data.prepared import Prepared
from orchestrator.data.reading.bad_samples import placed
from orchestrator.data.reading.chunks import by_step, most_steps, share_of
from orchestrator.data.reading.rows import RowReader
from orchestrator.data.transforms import Batch, apply_all
from orchestrator.planning.plan import Plan


class EvaluationChunks:
    """The evaluation set in the order of its files; a "step" is one batch of each rank.

    Every rank has as many batches of as many samples, since the forward may be collective; where the set does
    not come out even, the rest is padding of weight zero. Each sample is real exactly once over all ranks.
    """

    def __init__(self, prepared: Prepared, plan: Plan, *, rank: int, world_size: int) -> None:
        assert prepared.evaluation is not None
        self._prepared, self._plan = prepared, plan
        self._evaluation = prepared.evaluation
        self.samples = plan.micro_batch_size
        self._total = prepared.eval_samples
        self._first, self._end = share_of(self._total, rank, world_size)
        longest = -(-self._total // world_size)
        self.stop = -(-longest // self.samples)
        self.most_steps = most_steps(self.samples, prepared.carried_bytes)
        self._reader = RowReader(prepared.evaluation)
        counts = self._reader.selection.counts
        self._space = RowSpace(np.flatnonzero(counts), counts)

    def fetch(self, first_step: int, stop_step: int) -> Callable[[], Batch]:
        """Batches [first_step, stop_step), transformed without augmentation, with ``weight``: as for training."""
        place = self._first + np.arange(first_step * self.samples, stop_step * self.samples, dtype=np.int64)
        real = place < self._end
        group, nth = self._space.find(np.where(real, place, min(self._first, self._total - 1)))
        fetched = self._reader.fetch(group, nth)
        self._reader.keep({int(group[-1])})

        def decode() -> Batch:
            rows = fetched.decode()
            rows["sample_seed"] = sample_seeds(
                self._plan.job.training.seed, np.full(len(group), -1), rows["sample_id"]
            )
            rows["sample_id"] = np.where(real, rows["sample_id"], -1)
            rows["weight"] *= real
            with placed([self._evaluation]):
                rows = apply_all(self._plan.job.data.transforms, self._prepared.fitted, rows, training=False)
            return by_step(rows, stop_step - first_step)

        return decode
