"""From a job to Prepared: find, split, prepare, lay out, fit, order. Runs on the driver, and for ``plan`` as far as is cheap."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from orchestrator.data import facts
from orchestrator.data.cache import remembered
from orchestrator.data.hashing import sample_seeds
from orchestrator.data.layouts import choose_layouts, wanted_tensors
from orchestrator.data.order import shape_order
from orchestrator.data.preparations.rewrite import prepare_rows
from orchestrator.data.prepared import Prepared, PreparedSource, identity_of
from orchestrator.data.reading.rows import RowReader
from orchestrator.data.sources.bounds import with_bounds
from orchestrator.data.sources.builtin import materialize
from orchestrator.data.sources.formats import format_of, index_source
from orchestrator.data.sources.formats.parquet import index_parquet
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.pipeline import materialize_pipeline
from orchestrator.data.sources.split import Part, Selection, held_out_rows
from orchestrator.data.tensors import finished
from orchestrator.data.transforms import Batch, apply_all, kind_of
from orchestrator.data.transforms.fitting import fit_all
from orchestrator.errors import DataError
from orchestrator.planning.plan import Plan
from orchestrator.spec.data import Split
from orchestrator.spec.job import JobSpec

_LOGGER = logging.getLogger(__name__)
_FEW_LANES = 8
_FIT_ROWS = 1024
_FIT_VERSION = 1
_SMALL_BYTES = 2**26


def prepare(plan: Plan) -> Prepared:
    """Everything about the data that workers need.

    Writes bundled and prepared data, indexes of text files and fitted statistics into ``plan.cache``, where the
    next run finds them.

    Raises:
        DataError: the data is not as the job says; the message names file, column or row.
        InfrastructureError: the storage failed.
    """
    return prepare_job(plan.job, plan.base_dir, plan.cache)


def prepare_job(job: JobSpec, base_dir: str, cache: str) -> Prepared:
    """The same from a job, before there is a plan."""
    spec, seed = job.data, job.training.seed
    sections = spec.train if isinstance(spec.train, tuple) else (spec.train,)
    indexes = [_index(section, base_dir, cache) for section in sections]
    parts = [Part() for _ in indexes]
    evaluation: tuple[SourceIndex, Part] | None = None
    if isinstance(spec.eval, Split):
        held = held_out_rows(indexes[0].rows, spec.eval.fraction)
        parts = [Part(by=spec.eval.by, held_out=held, seed=seed)]
        evaluation = indexes[0], Part(by=spec.eval.by, held_out=held, seed=seed, evaluation=True)
    elif spec.eval is not None:
        evaluation = _index(spec.eval, base_dir, cache), Part()

    learned: dict[str, Any] = {}
    if spec.prepare is not None:
        made = prepare_rows(spec.prepare, list(zip(indexes, parts, strict=True)), evaluation, base_dir, cache)
        indexes, parts = [index_parquet(path) for path in made.train], [Part() for _ in made.train]
        evaluation = (index_parquet(made.evaluation), Part()) if made.evaluation else None
        learned = made.fitted

    wanted = wanted_tensors(job)
    train = tuple(_sources(job, indexes, parts, wanted, cache))
    held_out = None if evaluation is None else _source(job, *evaluation, wanted, first_id=0)
    _check_alike([*train, *([held_out] if held_out else [])])
    fitted = fit(job, train, cache)
    if held_out is not None:
        _check_seen(job, held_out, fitted)
    carried = first_rows(job, train[0], fitted)
    head = finished(carried, train[0].layouts)
    _check_numbers(head)
    dims, lists = facts.sizes(job, train, fitted, head, learned)
    train_samples = sum(source.samples for source in train)
    batch = job.training.global_batch_size
    whole = math.floor if spec.tail == "drop" else math.ceil
    return Prepared(
        train=train,
        evaluation=held_out,
        fitted=tuple(fitted),
        train_samples=train_samples,
        eval_samples=held_out.samples if held_out else 0,
        steps_per_epoch=whole(train_samples / batch),
        sample_bytes=sum(values[0].nbytes for values in head.values()),
        carried_bytes=sum(values[0].nbytes for values in carried.values()),
        identity=identity_of(train),
        dims=dims,
        lists=lists,
        classes=facts.class_names(job, train, fitted),
        preparation=learned,
        lineage=facts.lineage(train, held_out),
    )


def _index(section: Any, base_dir: str, cache: str) -> SourceIndex:
    if section.kind == "builtin":
        return index_parquet(materialize(section.name, cache))
    if section.kind == "pipeline":
        return index_parquet(materialize_pipeline(section, cache))
    return index_source(section, base_dir, cache)


def _sources(
    job: JobSpec,
    indexes: Sequence[SourceIndex],
    parts: Sequence[Part],
    wanted: dict[str, str],
    cache: str,
) -> Iterator[PreparedSource]:
    spec = job.data
    sections = spec.train if isinstance(spec.train, tuple) else (spec.train,)
    quotas = mix_quotas([section.weight for section in sections], job.training.global_batch_size)
    first_id = 0
    for index, part, quota in zip(indexes, parts, quotas, strict=True):
        source = _source(job, index, part, wanted, first_id=first_id)
        label = next((one for one in source.layouts if one.name == "label"), None)
        if label is not None and label.dtype == "int64" and len(label.columns) == 1:
            source = source.model_copy(update={"index": with_bounds(index, label.columns[0], cache)})
        order = shape_order(
            Selection(part, index.group_rows).counts,
            row_bytes=index.row_bytes,
            batch=quota,
            window_rows=spec.shuffle_window_rows,
            shuffle=spec.shuffle,
            drop_tail=spec.tail == "drop",
        )
        if order.shuffle and 1 <= order.lanes < min(_FEW_LANES, quota) and order.window < source.samples:
            _LOGGER.warning(
                "%s: its row groups are so large or few that a batch draws on %d of them at a time;"
                " write smaller row groups (a few megabytes) for a better shuffle",
                index.root,
                order.lanes,
            )
        if order.steps == 0:
            raise DataError(
                f"{index.root}: {source.samples} samples make no whole batch of {quota}; set data.tail to pad, or a"
                " smaller training.global_batch_size"
            )
        yield source.model_copy(update={"order": order})
        first_id += index.rows


def mix_quotas(weights: Sequence[float], batch: int) -> list[int]:
    """How many samples of every global batch each source gives: largest remainders, so they add up to the batch.

    Raises:
        DataError: a source would give none.
    """
    exact = [weight / sum(weights) * batch for weight in weights]
    quotas = [int(share) for share in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (quotas[i] - exact[i], i))
    for index in by_rest[: batch - sum(quotas)]:
        quotas[index] += 1
    if 0 in quotas:
        poor = quotas.index(0)
        raise DataError(
            f"data.train: source {poor + 1} of {len(weights)} has a share of {weights[poor] / sum(weights):.2%}, which"
            f" is less than one sample of a global batch of {batch}; raise its weight or training.global_batch_size"
        )
    return quotas


def _source(
    job: JobSpec, index: SourceIndex, part: Part, wanted: dict[str, str], *, first_id: int
) -> PreparedSource:
    samples = int(Selection(part, index.group_rows).counts.sum())
    if samples == 0:
        raise DataError(f"{index.root}: has no rows{' to hold out' if part.evaluation else ''}")
    head = format_of(index.kind).head(index, 8)
    layouts = choose_layouts(job.data, wanted, index, head)
    return PreparedSource(
        index=index,
        part=part,
        layouts=layouts,
        first_id=first_id,
        samples=samples,
        skips_bad_samples=job.data.skip_bad_samples > 0,
    )


def _check_numbers(head: Batch) -> None:
    """Refuse a tensor that is still text once all transforms were applied."""
    for name, values in head.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
            raise DataError(
                f"data.columns.{name}: its column holds text, and no transform turns it into numbers;"
                " encode it under data.transforms, or leave it out"
            )


def _check_alike(sources: Sequence[PreparedSource]) -> None:
    """Refuse sources whose tensors differ."""
    first = sources[0]
    for source in sources[1:]:
        ours = {one.name: (one.shape, one.dtype, one.kind) for one in first.layouts}
        theirs = {one.name: (one.shape, one.dtype, one.kind) for one in source.layouts}
        for name in ours.keys() | theirs.keys():
            if ours.get(name) != theirs.get(name):
                raise DataError(
                    f"tensor {name!r} is {_said(ours.get(name))} in {first.index.root}, but"
                    f" {_said(theirs.get(name))} in {source.index.root}; name columns that fit in data.columns"
                )


def _check_seen(job: JobSpec, held_out: PreparedSource, fitted: Sequence[dict[str, Any]]) -> None:
    """Refuse an evaluation sample with a category that no training sample has now, not at the first evaluation; of a
    large source that would be a second reading, so there it is left to the evaluation.
    """
    if sum(file.bytes for file in held_out.index.files) > _SMALL_BYTES:
        return
    for section, learned in zip(job.data.transforms, fitted, strict=True):
        layouts = tuple(one for one in held_out.layouts if one.name == section.tensor)
        if section.kind == "encode" and section.unseen == "error" and layouts:
            column = held_out.model_copy(update={"layouts": layouts})
            for batch in _all_rows([column], job.training.seed):
                kind_of(section).apply(section, learned, batch)


def _said(layout: tuple[tuple[int, ...], str, str] | None) -> str:
    if layout is None:
        return "missing"
    shape, dtype, kind = layout
    return f"{dtype} ({kind}) of shape {'x'.join(map(str, shape)) or 'one number'}"


# -- fitting ---------------------------------------------------------------------------------------------------


def fit(job: JobSpec, train: Sequence[PreparedSource], cache: str) -> list[dict[str, Any]]:
    """What each transform learns from the training samples, from the cache if it was learned before."""
    transforms = job.data.transforms
    if all(kind_of(section).fitter(section) is None for section in transforms):
        return [{} for _ in transforms]
    key = [
        [[s.index.identity, vars(s.part), [one.model_dump() for one in s.layouts]] for s in train],
        [section.model_dump(mode="json") for section in transforms],
    ]
    fitted: list[dict[str, Any]] = remembered(
        cache,
        "fitted-transforms",
        _FIT_VERSION,
        key,
        lambda: fit_all(transforms, (_all_rows(train, job.training.seed) for _ in iter(int, 1))),
    )
    return fitted


def _all_rows(train: Sequence[PreparedSource], seed: int) -> Iterator[Batch]:
    """Every training sample once, in the order of the files."""
    for source in train:
        reader = RowReader(source)
        for group, rows in enumerate(reader.selection.counts.tolist()):
            for start in range(0, rows, _FIT_ROWS):
                nth = np.arange(start, min(rows, start + _FIT_ROWS), dtype=np.int64)
                batch = _seeded(reader.read(np.full(len(nth), group, dtype=np.int64), nth), seed)
                good = batch["weight"] > 0
                yield batch if good.all() else {name: values[good] for name, values in batch.items()}
            reader.keep(set())


def _seeded(batch: Batch, seed: int) -> Batch:
    batch["sample_seed"] = sample_seeds(seed, np.zeros_like(batch["sample_id"]), batch["sample_id"])
    return batch


def first_rows(job: JobSpec, source: PreparedSource, fitted: Sequence[dict[str, Any]]) -> Batch:
    """A few training samples, transformed, as they are carried."""
    reader = RowReader(source)
    group = int(np.flatnonzero(reader.selection.counts)[0])
    nth = np.arange(min(4, int(reader.selection.counts[group])), dtype=np.int64)
    batch = _seeded(reader.read(np.full(len(nth), group, dtype=np.int64), nth), job.training.seed)
    return apply_all(job.data.transforms, fitted, batch, training=True)
