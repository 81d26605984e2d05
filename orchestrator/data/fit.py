"""What transforms learn from the training samples, and what the first samples look like after them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.cache import remembered
from orchestrator.data.columns.arrays import group_values
from orchestrator.data.hashing import sample_seeds
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.reading.bad_samples import placed
from orchestrator.data.reading.rows import RowReader
from orchestrator.data.sources.formats.audio import AudioFormat
from orchestrator.data.sources.split import Selection
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


def fit_beside(job: JobSpec, train: Sequence[PreparedSource]) -> list[dict[str, Any] | None]:
    """What transforms learn of sounds' manifests alone, without reading a sound: characters and classes. None for one that
    would have to, or that learns nothing.
    """
    nothing: list[dict[str, Any] | None] = [None for _ in job.data.transforms]
    if any(source.index.kind != "audio" for source in train):
        return nothing
    if any(section.kind == "drop" for section in job.data.transforms):
        return nothing  # rows without a value are still there
    fitted, batches = [], [_beside(source) for source in train]
    for section in job.data.transforms:
        kind = kind_of(section)
        fitter = kind.fitter(section) if section.tensor in batches[0] else None
        learned = None
        if fitter is not None:
            for batch in batches:
                fitter.update(batch)
            learned = fitter.result()
        fitted.append(learned)
        if batches[0].keys() >= set(section.reads):
            batches = [kind.apply(section, learned or {}, batch) for batch in batches]
        else:
            batches = [{name: batch[name] for name in batch.keys() - {section.tensor}} for batch in batches]
    return fitted


def _beside(source: PreparedSource) -> Batch:
    """All training rows of a source, of them what is no sound."""
    index, layouts = source.index, [one for one in source.layouts if not one.encoded]
    selection = Selection(source.part, index.group_rows)
    chosen = [selection.rows(group) for group in range(len(index.group_rows))]
    rows = np.concatenate(
        [
            start + (np.arange(count) if some is None else some)
            for start, count, some in zip(index.group_starts, index.group_rows, chosen, strict=True)
        ]
    )
    columns = tuple(dict.fromkeys(name for one in layouts for name in one.read_columns))
    table = AudioFormat().beside(index, columns).take(pa.array(rows))
    if source.skips_bad_samples and columns:
        there = np.all([pc.is_valid(column).to_numpy() for column in table.columns], axis=0)
        table, rows = table.filter(pa.array(there)), rows[there]

    def where(row: int) -> str:
        group = int(np.searchsorted(index.group_starts, rows[row], side="right")) - 1
        return index.where(group, int(rows[row] - index.group_starts[group]))

    values = {one.name: np.asarray(group_values(table, one, where)) for one in layouts}
    return {**values, "sample_id": source.first_id + rows}


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
