"""What can be said about a job's data before it runs, cheaply: for ``validate`` and ``plan``.

Small data is prepared as the run would prepare it (and kept in the cache), so all is known. Of large data only
footers, listings, manifests and beginnings are read; what would take reading it whole stays unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.data import facts, preparations
from orchestrator.data.by_name import layouts_by_name, with_classes_of_all, with_training_classes
from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.columns.star import star_notes
from orchestrator.data.fit import fit_beside
from orchestrator.data.held_out import held_out_rows
from orchestrator.data.known import bundled_facts
from orchestrator.data.listing import list_files
from orchestrator.data.precision import precision_notes
from orchestrator.data.prepare_data import held_out_part, prepare_job
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.sources.builtin import materialize
from orchestrator.data.sources.formats import MUST_BE_SCANNED, format_of, index_source, scanned_format_of
from orchestrator.data.sources.formats.audio import is_manifest
from orchestrator.data.sources.formats.parquet import index_parquet
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import Part, SourceRows
from orchestrator.data.targets import check_class_count
from orchestrator.data.transforms import Batch, kind_of
from orchestrator.planning.plan import DataFacts
from orchestrator.spec.data import BuiltinSource, PipelineSource, Split
from orchestrator.spec.job import JobSpec
from orchestrator.storage import absolute

SMALL_BYTES = 2**26
"""Sources of at most so many bytes are prepared at once."""


def inspect(job: JobSpec, base_dir: str, cache: str) -> DataFacts:
    """What is known of the data.

    Raises:
        DataError: the data is not as the job says.
    """
    if (bundled := bundled_facts(job)) is not None:
        return bundled
    spec = job.data
    sections = spec.train if isinstance(spec.train, tuple) else (spec.train,)
    sources = [*sections, *([] if spec.eval is None or isinstance(spec.eval, Split) else [spec.eval])]
    if any(isinstance(source, PipelineSource) for source in sources):
        return _from_preparation(job, base_dir)
    if sum(_bytes(source, base_dir, cache) for source in sources) <= SMALL_BYTES:
        prepared = prepare_job(job, base_dir, cache)
        return DataFacts(
            train_samples=prepared.train_samples,
            eval_samples=prepared.eval_samples,
            dims=prepared.dims,
            lists=prepared.lists,
            tensors=prepared.tensors,
            notes=prepared.notes,
        )
    if spec.prepare is not None:
        return _from_preparation(job, base_dir)
    return _from_beginnings(job, sections, base_dir, cache)


def _bytes(source: Any, base_dir: str, cache: str) -> int:
    """Of the files that rows lie in; of a manifest those of the sounds that it names."""
    if isinstance(source, BuiltinSource):
        return 0
    path = absolute(source.path, base_dir)
    if source.kind == "audio" and is_manifest(path):
        index = index_source(source, base_dir, cache)
        return round(index.rows * index.row_bytes)
    extensions = format_of(source.kind).extensions
    return sum(facts.bytes for facts in list_files(path, extensions, bookkeeping=False))


def _from_preparation(job: JobSpec, base_dir: str) -> DataFacts:
    section = job.data.prepare
    samples = 0 if job.data.eval is None else None
    if section is None:
        return DataFacts(eval_samples=samples)
    kind = preparations.kind_of(section)
    return DataFacts(
        eval_samples=samples,
        dims=kind.dims_before(section, base_dir),
        lists=kind.lists_before(section, base_dir),
    )


def _from_beginnings(job: JobSpec, sections: tuple[Any, ...], base_dir: str, cache: str) -> DataFacts:
    spec = job.data
    indexes, counted = [], True
    for section in sections:
        index, whole = _index(section, base_dir, cache)
        indexes.append(index)
        counted = counted and whole
    train = indexes = with_classes_of_all(indexes)
    beginnings = not counted
    counted = counted and all(section.kind != "drop" for section in spec.transforms)
    rows = sum(index.rows for index in indexes) if counted else None
    samples, held = rows, 0 if spec.eval is None else None
    if isinstance(spec.eval, Split) and spec.eval.group is not None:
        samples = None  # as whole groups allow, which takes reading the column
    elif isinstance(spec.eval, Split) and rows is not None:
        held = held_out_rows(rows, spec.eval.fraction)
        samples = rows - held
    elif spec.eval is not None and not isinstance(spec.eval, Split):
        index, whole = _index(spec.eval, base_dir, cache)
        indexes = [*train, with_training_classes(train[0], index)]
        held = index.rows if whole else None
    layouts, differences = layouts_by_name(job, [SourceRows(index, Part()) for index in indexes])
    part = Part()
    if isinstance(spec.eval, Split) and train[0].kind == "audio":
        # Only training's texts are learned from. The list, named by all that is in it, stands for sounds that are not read.
        listed = train[0].model_copy(update={"content": train[0].files[0].path})
        part, _ = held_out_part(job, spec.eval, listed, cache)
    sources = [
        PreparedSource(
            index=index,
            part=part,
            layouts=made,
            first_id=0,
            samples=max(1, index.rows),
            skips_bad_samples=spec.skip_bad_samples > 0,
        )
        for index, made in zip(train, layouts, strict=False)
    ]
    fitted = fit_beside(job, sources)
    shapes = _transformed(job, _shapes(layouts[0]), fitted)
    dims, lists = facts.sizes(job, sources, fitted, shapes, {})
    if beginnings and spec.images.channels == "auto" and dims.get("channels") == 1:
        del dims["channels"]  # the run looks further than a beginning, and may find colors
    if samples is not None:
        check_class_count(getattr(job.model, "outputs", None), dims, samples, indexes[0].root)
    return DataFacts(
        train_samples=samples,
        eval_samples=held,
        dims=dims,
        lists=lists,
        tensors=facts.tensors(shapes),
        notes=(
            *facts.notes(indexes),
            *differences,
            *star_notes(spec.columns, layouts[0], indexes[0].schema),
            *precision_notes(indexes[0], layouts[0]),
        ),
    )


def _index(section: Any, base_dir: str, cache: str) -> tuple[SourceIndex, bool]:
    """The index and whether it is whole; a format that would have to be read through is indexed at its beginning."""
    if isinstance(section, BuiltinSource):
        return index_parquet(materialize(section.name, cache)), True
    if section.kind in MUST_BE_SCANNED:
        path = absolute(section.path, base_dir)
        return scanned_format_of(section.kind).index_beginning(section, path), False
    return index_source(section, base_dir, cache), True


def _shapes(layouts: tuple[TensorLayout, ...]) -> Batch:
    """A batch of one sample of nothing but shapes."""
    return {one.name: np.zeros((1, *one.shape), dtype=one.dtype) for one in layouts}


def _transformed(job: JobSpec, batch: Batch, fitted: Sequence[dict[str, Any] | None]) -> Batch:
    """The shapes after the transforms; without tensors whose width is learned."""
    for section, learned in zip(job.data.transforms, fitted, strict=True):
        if not all(name in batch for name in section.reads):
            batch = {name: values for name, values in batch.items() if name not in section.reads}
        elif section.kind in ("date", "join", "mel", "pad", "crop") or (section.kind == "spell" and learned):
            batch = kind_of(section).apply(section.in_evaluation, learned or {}, batch)
        elif section.kind == "impute" and section.indicator:
            batch = {name: values for name, values in batch.items() if name != section.tensor}
    return batch
