"""From a job to Prepared: find, split, prepare, lay out, fit, order. Runs on the driver, and for ``plan`` as far as is cheap."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.data import facts
from orchestrator.data.by_name import layouts_by_name, with_classes_of_all, with_training_classes
from orchestrator.data.checks import check_categories_seen, check_numbers
from orchestrator.data.columns.layout import TensorLayout, finished
from orchestrator.data.columns.star import star_notes
from orchestrator.data.evaluation_gaps import check_no_gaps, check_numbers_there
from orchestrator.data.example import example_rows
from orchestrator.data.fit import first_samples, fit_transforms
from orchestrator.data.held_out import held_out_rows
from orchestrator.data.image_sources import image_notes, with_one_look
from orchestrator.data.meaning import meaning_of
from orchestrator.data.order import OrderShape, shape_order
from orchestrator.data.origin import lineage
from orchestrator.data.precision import precision_notes
from orchestrator.data.preparations.dropping import without_missing
from orchestrator.data.preparations.rewrite import rewrite_rows
from orchestrator.data.preparations.whole_groups import held_out_groups
from orchestrator.data.prepared import Prepared, PreparedSource, identity_of
from orchestrator.data.sources.builtin import materialize
from orchestrator.data.sources.contents import identified
from orchestrator.data.sources.formats import index_source
from orchestrator.data.sources.formats.parquet import index_parquet
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.mix import mix_quotas
from orchestrator.data.sources.pipeline import materialize_pipeline
from orchestrator.data.sources.split import Part, Selection, SourceRows
from orchestrator.data.targets import check_labels, with_targets
from orchestrator.errors import DataError
from orchestrator.planning.plan import Plan
from orchestrator.spec.data import Source, Split
from orchestrator.spec.job import JobSpec

_LOGGER = logging.getLogger(__name__)
_FEW_LANES = 8


def prepare(plan: Plan, held_out: Source | None = None) -> Prepared:
    """Everything about the data that workers need.

    Args:
        plan: of the run.
        held_out: what is evaluated on in place of the job's own. What is trained on, and so all that is learned of it,
            stays the same.

    Writes bundled and prepared data, indexes of text files and fitted statistics into ``plan.cache``, where the
    next run finds them.

    Raises:
        DataError: the data is not as the job says; the message names file, column or row.
        InfrastructureError: the storage failed.
    """
    return prepare_job(plan.job, plan.base_dir, plan.cache, held_out)


def prepare_job(job: JobSpec, base_dir: str, cache: str, held_out: Source | None = None) -> Prepared:
    """The same from a job, before there is a plan."""
    train_rows, eval_rows, notes = _rows_of_sources(job, base_dir, cache, held_out)
    written_train, written_eval = train_rows, eval_rows
    notes = (
        *facts.notes([rows.index for rows in (*train_rows, *([eval_rows] if eval_rows else []))]),
        *notes,
    )
    preparation: dict[str, Any] = {}
    if job.data.prepare is not None:
        rewritten = rewrite_rows(
            job.data.prepare, train_rows, eval_rows, base_dir, cache, skip=job.data.skip_bad_samples
        )
        check_numbers_there(job, [*written_train, *([written_eval] if written_eval else [])], cache)
        train_rows, eval_rows, preparation = rewritten.train, rewritten.evaluation, rewritten.fitted
        notes = (*notes, *rewritten.notes)
    layouts, differences = layouts_by_name(job, [*train_rows, *([eval_rows] if eval_rows else [])])
    notes = (*notes, *differences)
    if any(section.kind == "drop" for section in job.data.transforms):
        train_rows, train_notes = _dropped(job, train_rows, layouts[0], cache)
        kept, eval_notes = _dropped(job, [eval_rows] if eval_rows else [], layouts[0], cache)
        eval_rows = kept[0] if kept else None
        notes = (*notes, *train_notes, *eval_notes)
    train = tuple(_training_sources(job, train_rows, layouts, cache))
    evaluation = (
        None
        if eval_rows is None
        else with_targets(job, _source(job, eval_rows, layouts[-1], first_id=0), cache)
    )
    train, evaluation = with_one_look(train, evaluation)
    fitted = fit_transforms(job, train, cache)
    if evaluation is not None:
        check_categories_seen(job, evaluation, fitted)
        check_no_gaps(job, evaluation, cache)
    stars = star_notes(job.data.columns, train[0].layouts, train[0].index.schema)
    digits = precision_notes(train[0].index, train[0].layouts)
    notes = (*notes, *image_notes(train, job.data), *stars, *digits)
    origin = lineage(
        job,
        written_train,
        written_eval,
        train_samples=sum(source.samples for source in train),
        eval_samples=evaluation.samples if evaluation else 0,
    )
    assembled = _assembled(job, train, evaluation, fitted, preparation, notes, origin)
    return assembled.model_copy(update={"example": example_rows(job, written_train[0].index)})


def _rows_of_sources(
    job: JobSpec, base_dir: str, cache: str, held_out: Source | None
) -> tuple[Sequence[SourceRows], SourceRows | None, tuple[str, ...]]:
    """The rows that are trained on, those that are held out or of the evaluation's own source, and what to say of a split."""
    spec = job.data
    notes: tuple[str, ...] = ()
    sections = spec.train if isinstance(spec.train, tuple) else (spec.train,)
    indexes = with_classes_of_all([_index(section, base_dir, cache) for section in sections])
    if isinstance(spec.eval, Split):
        part, notes = held_out_part(job, spec.eval, indexes[0], cache)
        train = [SourceRows(indexes[0], part)]
        if held_out is None:
            return train, SourceRows(indexes[0], replace(part, evaluation=True)), notes
    else:
        train = [SourceRows(index, Part()) for index in indexes]
        held_out = held_out or spec.eval
    if held_out is None:
        return train, None, notes
    index = with_training_classes(indexes[0], _index(held_out, base_dir, cache))
    return train, SourceRows(index, Part()), notes


def held_out_part(job: JobSpec, split: Split, index: SourceIndex, cache: str) -> tuple[Part, tuple[str, ...]]:
    """Which rows a split leaves to training, and what to say of it."""
    by, seed = job.data.held_out_by(split), job.training.seed
    if split.group is not None:
        part, note = held_out_groups(index, split.group, split.fraction, seed, cache)
        return part, (note,)
    return Part(by=by, held_out=held_out_rows(index.rows, split.fraction), seed=seed), ()


def _dropped(
    job: JobSpec, sources: Sequence[SourceRows], layouts: Sequence[TensorLayout], cache: str
) -> tuple[list[SourceRows], list[str]]:
    """The sources' rows without those that ``drop`` leaves out, and what to say of it."""
    names = {section.tensor for section in job.data.transforms if section.kind == "drop"}
    asked = [layout for layout in layouts if layout.name in names]
    kept, notes = [], []
    for rows in sources:
        whole, note = without_missing(rows, asked, cache)
        kept.append(whole)
        notes.append(note)
    return kept, notes


def _assembled(
    job: JobSpec,
    train: tuple[PreparedSource, ...],
    evaluation: PreparedSource | None,
    fitted: Sequence[dict[str, Any]],
    preparation: dict[str, Any],
    notes: tuple[str, ...],
    origin: dict[str, Any],
) -> Prepared:
    """What is known of it all, with sizes that the first samples show."""
    carried = first_samples(job, train[0], fitted)
    head = finished(carried, train[0].layouts)
    check_numbers(job, train[0], head)
    dims, lists = facts.sizes(job, train, fitted, head, preparation)
    check_labels(job, train, evaluation, dims)
    classes = facts.class_names(job, train, fitted)
    train_samples = sum(source.samples for source in train)
    whole = math.floor if job.data.tail == "drop" else math.ceil
    return Prepared(
        train=train,
        evaluation=evaluation,
        fitted=tuple(fitted),
        train_samples=train_samples,
        eval_samples=evaluation.samples if evaluation else 0,
        steps_per_epoch=whole(train_samples / job.training.global_batch_size),
        sample_bytes=sum(values[0].nbytes for values in head.values()),
        carried_bytes=sum(values[0].nbytes for values in carried.values()),
        identity={
            **identity_of(train),
            "meaning": meaning_of(job, train, fitted, preparation, classes),
        },
        dims=dims,
        lists=lists,
        tensors=facts.tensors(head),
        classes=classes,
        preparation=preparation,
        notes=notes,
        lineage=origin,
    )


def _index(section: Any, base_dir: str, cache: str) -> SourceIndex:
    if section.kind == "builtin":
        index = index_parquet(materialize(section.name, cache))
    elif section.kind == "pipeline":
        index = index_parquet(materialize_pipeline(section, cache))
    else:
        index = index_source(section, base_dir, cache)
    return identified(index, cache)


def _training_sources(
    job: JobSpec, rows: Sequence[SourceRows], layouts: Sequence[tuple[TensorLayout, ...]], cache: str
) -> Iterator[PreparedSource]:
    spec = job.data
    sections = spec.train if isinstance(spec.train, tuple) else (spec.train,)
    quotas = mix_quotas([section.weight for section in sections], job.training.global_batch_size)
    first_id = 0
    for number, (one, quota) in enumerate(zip(rows, quotas, strict=True)):
        source = with_targets(job, _source(job, one, layouts[number], first_id=first_id), cache)
        yield source.model_copy(update={"order": _order(job, source, quota)})
        first_id += one.index.rows


def _order(job: JobSpec, source: PreparedSource, quota: int) -> OrderShape:
    index = source.index
    order = shape_order(
        Selection(source.part, index.group_rows).counts,
        row_bytes=index.row_bytes,
        batch=quota,
        window_rows=job.data.shuffle_window_rows,
        shuffle=job.data.shuffle,
        drop_tail=job.data.tail == "drop",
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
    return order


def _source(
    job: JobSpec, rows: SourceRows, layouts: tuple[TensorLayout, ...], *, first_id: int
) -> PreparedSource:
    index, part = rows.index, rows.part
    samples = int(Selection(part, index.group_rows).counts.sum())
    if samples == 0:
        raise DataError(f"{index.root}: has no rows{' to hold out' if part.evaluation else ''}")
    return PreparedSource(
        index=index,
        part=part,
        layouts=layouts,
        first_id=first_id,
        samples=samples,
        skips_bad_samples=job.data.skip_bad_samples > 0,
    )
