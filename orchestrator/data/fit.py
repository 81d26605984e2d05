"""What transforms learn from the training samples, and what the first samples look like after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from orchestrator.data.cache import remembered
from orchestrator.data.hashing import sample_seeds
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.reading.bad_samples import placed
from orchestrator.data.reading.rows import RowReader
from orchestrator.data.transforms import Batch, apply_all, kind_of
from orchestrator.data.transforms.fitting import fit_all
from orchestrator.spec.job import JobSpec

_FIT_ROWS = 1024
_VERSION = 2
"""Of what is kept; raise it when the same samples fit something else."""


def fit_transforms(job: JobSpec, train: Sequence[PreparedSource], cache: str) -> list[dict[str, Any]]:
    """What each transform learns from the training samples, from the cache if it was learned before."""
    transforms = job.data.transforms
    if all(kind_of(section).fitter(section) is None for section in transforms):
        return [{} for _ in transforms]

    def learn() -> list[dict[str, Any]]:
        with placed(train):
            return fit_all(transforms, (training_batches(train, job.training.seed) for _ in iter(int, 1)))

    key = [
        [[s.index.identity, s.part.key, [one.model_dump() for one in s.layouts]] for s in train],
        [section.model_dump(mode="json") for section in transforms],
    ]
    fitted: list[dict[str, Any]] = remembered(
        cache,
        "fitted-transforms",
        _VERSION,
        key,
        learn,
    )
    return fitted


def training_batches(train: Sequence[PreparedSource], seed: int) -> Iterator[Batch]:
    """Every training sample that can be read once, in the order of the files."""
    for source in train:
        for batch in all_samples(source):
            _seeded(batch, seed)
            good = batch["weight"] > 0
            yield batch if good.all() else {name: values[good] for name, values in batch.items()}


def all_samples(source: PreparedSource) -> Iterator[Batch]:
    """Every sample of a source in the order of its files, those that can't be read with weight zero."""
    reader = RowReader(source)
    for group, rows in enumerate(reader.selection.counts.tolist()):
        for start in range(0, rows, _FIT_ROWS):
            nth = np.arange(start, min(rows, start + _FIT_ROWS), dtype=np.int64)
            yield reader.read(np.full(len(nth), group, dtype=np.int64), nth)
        reader.keep(set())


def _seeded(batch: Batch, seed: int) -> Batch:
    batch["sample_seed"] = sample_seeds(seed, np.zeros_like(batch["sample_id"]), batch["sample_id"])
    return batch


def first_samples(job: JobSpec, source: PreparedSource, fitted: Sequence[dict[str, Any]]) -> Batch:
    """A few training samples, transformed, as they are carried."""
    reader = RowReader(source)
    group = int(np.flatnonzero(reader.selection.counts)[0])
    nth = np.arange(min(4, int(reader.selection.counts[group])), dtype=np.int64)
    batch = _seeded(reader.read(np.full(len(nth), group, dtype=np.int64), nth), job.training.seed)
    with placed([source]):
        return apply_all(job.data.transforms, fitted, batch, training=True)
