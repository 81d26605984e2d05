"""A column and a class are what the training data calls so: in every further source, whatever order it has them in."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from orchestrator.data.columns.choose import Chosen, choose_columns, layouts_of, one_carried_type
from orchestrator.data.columns.layout import TensorLayout, source_column
from orchestrator.data.columns.missing import model_tensors, refuse_missing
from orchestrator.data.columns.star import starred_of
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import SourceRows
from orchestrator.data.sources.tables import named
from orchestrator.errors import DataError
from orchestrator.models.configs import default_objective
from orchestrator.spec.job import JobSpec

_HEAD_ROWS = 8


def layouts_by_name(
    job: JobSpec, sources: Sequence[SourceRows]
) -> tuple[list[tuple[TensorLayout, ...]], list[str]]:
    """The tensors of each source, by the columns that the first one has, and what to say of the differences.

    Raises:
        DataError: a source lacks a column, or has another kind of values in it.
        SpecError: the job lacks a section.
    """
    spec, taken, first = job.data, model_tensors(job), sources[0].index
    may_lack = ("label",) if (job.objective or default_objective(job.model)).takes_missing_labels else ()
    heads = [format_of(rows.index.kind).head(rows.index, _HEAD_ROWS) for rows in sources]
    chosen = choose_columns(spec, taken, first, heads[0])
    made, notes = [], []
    for rows, head in zip(sources, heads, strict=True):
        if rows.index.root != first.root:
            _refuse_missing_columns(chosen, rows.index, head, first)
            notes += _further_columns(job, rows.index, head, first, heads[0])
        made.append(layouts_of(chosen, spec, taken, rows.index, head, may_lack))
    refuse_missing(job, list(chosen), first.root, heads[0].column_names)
    alike = [made[0], *(_texts_like(made[0], layouts) for layouts in made[1:])]
    for rows, layouts in zip(sources[1:], alike[1:], strict=True):
        _check_alike(first.root, made[0], rows.index.root, layouts)
    return one_carried_type(alike), notes


def with_classes_of_all(indexes: Sequence[SourceIndex]) -> list[SourceIndex]:
    """Training sources, their classes numbered by name among those of all."""
    if not all(index.classes for index in indexes):
        return list(indexes)
    names = tuple(sorted({name for index in indexes for name in index.classes}))
    return [_numbered(index, names) for index in indexes]


def with_training_classes(train: SourceIndex, held_out: SourceIndex) -> SourceIndex:
    """The evaluation source, its classes numbered as in training.

    Raises:
        DataError: it has a class that no training source has.
    """
    if not (train.classes and held_out.classes):
        return held_out
    strange = [name for name in held_out.classes if name not in train.classes]
    if strange:
        raise DataError(
            f"{held_out.root}: has the class {strange[0]!r}, which the training data lacks; it has"
            f" {named(train.classes)}"
        )
    return _numbered(held_out, train.classes)


def _numbered(index: SourceIndex, names: tuple[str, ...]) -> SourceIndex:
    if index.classes == names:
        return index
    numbers = [names.index(name) for name in index.classes]
    lacking = [name for name in names if name not in index.classes]
    return index.model_copy(
        update={
            "classes": names,
            "options": {**index.options, "numbers": json.dumps(numbers)},
            "bounds": {**index.bounds, "label": (min(numbers), max(numbers))},
            "found": (*index.found, f"{index.root} has no samples of the classes {named(lacking)}"),
        }
    )


def _refuse_missing_columns(
    chosen: dict[str, Chosen], index: SourceIndex, head: pa.Table, first: SourceIndex
) -> None:
    there = set(head.column_names)
    for tensor, one in chosen.items():
        lacking = [name for name in one.columns if source_column(name, there) not in there]
        if lacking:
            raise DataError(
                f"{index.root}: has no column {named(lacking)}, which makes {tensor!r} in {first.root}; it has"
                f" {named(head.column_names)}"
            )


def _further_columns(
    job: JobSpec, index: SourceIndex, head: pa.Table, first: SourceIndex, first_head: pa.Table
) -> list[str]:
    """Columns that ``"*"`` would have taken, had the training data had them."""
    further = [name for name in head.column_names if name not in first_head.column_names]
    if not starred_of(job.data.columns) or not further:
        return []
    return [f"{index.root} has columns that {first.root} lacks, which are not read: {named(further)}"]


def _texts_like(
    first: tuple[TensorLayout, ...], layouts: tuple[TensorLayout, ...]
) -> tuple[TensorLayout, ...]:
    """What is text in training is text everywhere: a file whose words all are digits is no other kind of data."""
    texts = {one.name: one for one in first if one.kind == "text"}
    return tuple(
        texts[one.name].model_copy(update={"read_columns": one.read_columns})
        if one.name in texts and one.kind == "numbers"
        else one
        for one in layouts
    )


def _check_alike(
    first_root: str, first: tuple[TensorLayout, ...], root: str, layouts: tuple[TensorLayout, ...]
) -> None:
    for ours, theirs in zip(first, layouts, strict=True):
        # Channels of images are brought together later, by a look at all sources.
        shapes = [one.shape[1:] if one.kind == "image" else one.shape for one in (ours, theirs)]
        if shapes[0] != shapes[1] or (ours.dtype, ours.kind) != (theirs.dtype, theirs.kind):
            raise DataError(
                f"tensor {ours.name!r} is {_described(ours)} in {first_root}, but {_described(theirs)} in {root}; name"
                " columns that fit in data.columns"
            )
        if ours.sound is not None and theirs.sound is not None and ours.sound.rate != theirs.sound.rate:
            raise DataError(
                f"sounds have {ours.sound.rate:,} samples a second in {first_root}, but {theirs.sound.rate:,} in {root}; add a"
                f" resample transform (data.transforms: {{kind: resample, tensor: {ours.name}, rate: ...}})"
            )


def _described(layout: TensorLayout) -> str:
    shape = "x".join(map(str, layout.shape)) or "one number"
    return f"{layout.dtype} ({layout.kind}) of shape {shape}"
