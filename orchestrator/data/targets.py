"""What a model is to predict: that each sample has it, and that it is what the objective takes; known before training."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.data.cache import remembered
from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.fit import all_samples
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.reading.bad_samples import BadSamples, bad_samples_of, place_of
from orchestrator.data.sources.split import Part
from orchestrator.errors import DataError, SpecError
from orchestrator.models.configs import default_objective
from orchestrator.spec.job import JobSpec

_VERSION = 2
"""Of what is kept; raise it when ``_read`` finds something else."""
_CLASSES = ("classification", "binary", "multilabel")
_MOST_SPARSE_CLASSES = 10_000
"""Labels that leave most numbers out are identifiers, not classes; below it a model for them costs nothing."""
_ENCODE = "{kind: encode, tensor: label} under data.transforms"


def with_targets(job: JobSpec, source: PreparedSource, cache: str) -> PreparedSource:
    """The source, the bounds of its label known. Reads the label of every row once, unless the format says enough.

    Raises:
        DataError: labels can't be read, more than the job lets pass; names file, row and column.
    """
    label = _label(source)
    if label is None or label.kind not in ("numbers", "text"):
        return source
    column = label.columns[0] if len(label.columns) == 1 and label.dtype == "int64" else None
    if column in source.index.bounds:
        return source
    whole = source.model_copy(update={"part": Part(), "layouts": (label,), "first_id": 0})
    most = job.data.skip_bad_samples
    key = [source.index.identity, label.model_dump(), most]
    found = remembered(cache, "label-bounds", _VERSION, key, lambda: _read(whole, most))
    _refuse_no_yes_or_no(job, whole, label, found["odd"])
    if column is None or found["least"] is None:
        return source
    bounds = {**source.index.bounds, column: (found["least"], found["greatest"])}
    return source.model_copy(update={"index": source.index.model_copy(update={"bounds": bounds})})


def check_labels(
    job: JobSpec, train: tuple[PreparedSource, ...], held_out: PreparedSource | None, dims: dict[str, int]
) -> None:
    """Refuse labels that the objective can't be meant for.

    Raises:
        DataError: a label is none of the classes, or all are one; names file and row.
        SpecError: the objective takes another kind of label.
    """
    objective = job.objective or default_objective(job.model)
    kind = objective.kind
    encoded = _encodes_label(job)
    if encoded and objective.takes_missing_labels and kind != "regression":
        raise SpecError(
            f"objective.missing_labels: {kind} takes 0, 1 and what is missing as they stand; leave the encode of label out of"
            " data.transforms, or missing_labels"
        )
    if encoded and kind == "regression":
        raise SpecError(
            "objective: regression predicts numbers, but data.transforms encodes the label as classes; leave encode"
            " out, or give objective: {kind: classification}"
        )
    _check_tokenized(job, kind)
    if kind not in _CLASSES or _label(train[0]) is None:
        return
    given: int | None = getattr(job.model, "outputs", None)
    classes = given or dims.get("outputs", 0)
    if encoded:
        if kind == "binary" and classes > 2:
            raise DataError(
                f"{train[0].index.root}: the label has {classes} values, but binary tells two classes apart; give"
                " objective: {kind: classification}"
            )
    else:
        most = classes if kind == "classification" else 2
        for source in (*train, *([held_out] if held_out else [])):
            _refuse_outside(source, kind, most)
        check_class_count(given, dims, sum(source.samples for source in train), train[0].index.root)
    if kind == "classification" and classes == 1 and given is None:
        raise DataError(f"{train[0].index.root}: every label is of one class; there is nothing to tell apart")


def _check_tokenized(job: JobSpec, kind: str) -> None:
    """Refuse numbers as classes and classes as numbers. Raises SpecError."""
    prepare = job.data.prepare
    if prepare is None or prepare.kind != "tokenize":
        return
    if prepare.label is not None and kind == "regression":
        raise SpecError(
            f"data.prepare.label: it numbers the classes in {prepare.label!r}, but regression predicts numbers; give numbers:"
            f" [{prepare.label}] in place of it, or objective: {{kind: classification}}"
        )
    if prepare.numbers and kind not in ("regression", "multilabel"):
        raise SpecError(
            f"data.prepare.numbers: {kind} does not predict numbers; give objective: {{kind: regression}}, or multilabel for several"
            " of 0 and 1, or name the class's column as label"
        )


def check_class_count(given: int | None, dims: dict[str, int], samples: int, root: str) -> None:
    """Refuse identifiers as labels. Raises DataError."""
    classes = dims.get("outputs", 0)
    if given is None and classes > max(samples, _MOST_SPARSE_CLASSES):
        raise DataError(
            f"{root}: the greatest label is {classes - 1}, which would make {classes:,} classes of {samples:,}"
            f" samples; {_ENCODE} numbers the labels that there are, or give model.outputs"
        )


def _label(source: PreparedSource) -> TensorLayout | None:
    return next((one for one in source.layouts if one.name == "label"), None)


def _read(source: PreparedSource, most: int) -> dict[str, Any]:
    """Least and greatest of all rows' labels, None where the source has fractions; and the first that is neither 0 nor 1 nor
    missing: its sample, its place in it and its value.
    """
    bad, least, greatest, odd = BadSamples([source], most), [], [], None
    for batch in all_samples(source):
        bad.check(bad_samples_of(batch))
        good = batch["weight"] > 0
        values = batch["label"][good]
        odd = odd or _first_odd(batch["sample_id"][good], values)
        if values.size and values.dtype.kind in "iu":
            least.append(int(values.min()))
            greatest.append(int(values.max()))
    return {"least": min(least, default=None), "greatest": max(greatest, default=None), "odd": odd}


def _first_odd(sample_id: np.ndarray, values: np.ndarray) -> list[float] | None:
    if values.dtype.kind not in "fiub":
        return None
    numbers = values.reshape(len(values), -1)
    odd = np.argwhere((numbers != 0) & (numbers != 1) & ~np.isnan(numbers))
    if not len(odd):
        return None
    row, place = odd[0].tolist()
    return [int(sample_id[row]), place, float(numbers[row, place])]


def _refuse_no_yes_or_no(
    job: JobSpec, source: PreparedSource, label: TensorLayout, odd: list[float] | None
) -> None:
    """Refuse a label of several that is neither yes nor no. Raises DataError."""
    objective = job.objective or default_objective(job.model)
    if odd is None or objective.kind != "multilabel" or _encodes_label(job):
        return
    sample, place, value = int(odd[0]), int(odd[1]), odd[2]
    column = label.columns[place if len(label.columns) > 1 else 0]
    raise DataError(
        f"{place_of([source], sample)}: the label in column {column!r} is {value:g}, but {_expected('multilabel', 2, 0)}"
        + (", or no value" if objective.takes_missing_labels else "")
    )


def _encodes_label(job: JobSpec) -> bool:
    return any(section.kind == "encode" and section.tensor == "label" for section in job.data.transforms)


def _refuse_outside(source: PreparedSource, kind: str, classes: int) -> None:
    label = _label(source)
    bounds = None if label is None or len(label.columns) != 1 else source.index.bounds.get(label.columns[0])
    if label is None or bounds is None or (bounds[0] >= 0 and bounds[1] < classes):
        return
    whole = source.model_copy(update={"part": Part(), "layouts": (label,), "first_id": 0})
    for batch in all_samples(whole):
        outside = (batch["label"] < 0) | (batch["label"] >= classes)
        outside = outside.reshape(len(outside), -1).any(axis=1) & (batch["weight"] > 0)
        if outside.any():
            row = int(np.flatnonzero(outside)[0])
            values = batch["label"][row].ravel()
            value = int(values[(values < 0) | (values >= classes)][0])
            raise DataError(
                f"{place_of([whole], int(batch['sample_id'][row]))}: the label in column {label.columns[0]!r} is"
                f" {value}, but {_expected(kind, classes, value)}"
            )


def _expected(kind: str, classes: int, label: int) -> str:
    """What an objective takes, and what mends it."""
    if kind == "binary":
        return f"binary takes 0 and 1; {_ENCODE} makes them of any two values, or give objective: {{kind: classification}}"
    if kind == "multilabel":
        return "multilabel takes 0 and 1"
    if label < 0:
        return f"classes are numbered from 0; {_ENCODE} numbers any values"
    return f"there are {classes} classes, numbered from 0 (training data or model.outputs)"
