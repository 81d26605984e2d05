"""Refusals that need more than one source, or the tensors as the model gets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from orchestrator.data.fit import training_batches
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.reading.bad_samples import placed
from orchestrator.data.transforms import Batch, kind_of
from orchestrator.errors import DataError
from orchestrator.spec.job import JobSpec

_SMALL_BYTES = 2**26


def check_numbers(job: JobSpec, source: PreparedSource, head: Batch) -> None:
    """Refuse a tensor that is still text or dates once all transforms were applied. Raises DataError."""
    for name, values in head.items():
        if values.dtype.kind in "fiub":
            continue
        if values.dtype.kind == "M":
            raise DataError(
                f"data.columns.{name}: its column holds dates; {{kind: date, tensor: {name}}} under data.transforms"
                " makes them numbers"
            )
        raise DataError(f"data.columns.{name}: {_words(source, name)} holds words, {_mend(job, name)}")


def _words(source: PreparedSource, name: str) -> str:
    """The column that makes the tensor text."""
    layout = next(one for one in source.layouts if one.name == name)
    texts = [
        column for column in layout.read_columns if pa.types.is_string(source.index.schema.field(column).type)
    ]
    return f"column {(texts or layout.columns)[0]!r} of {source.index.root}"


def _mend(job: JobSpec, name: str) -> str:
    """What to do about words where numbers are needed."""
    numbers = "where they are numbers, give the source its decimal, thousands or missing"
    if name == "label" and job.objective is not None and job.objective.kind == "regression":
        return (
            f"but regression predicts numbers; {numbers}; to tell classes apart give objective: {{kind: classification}}"
            " and {kind: encode, tensor: label} under data.transforms"
        )
    if name == "features":
        return (
            "and features are numbers; take it as one of data.columns.categories with {kind: encode, tensor:"
            f" categories}} under data.transforms; {numbers}; or leave it out"
        )
    return f"and no transform turns them into numbers; add {{kind: encode, tensor: {name}}} under data.transforms; {numbers}"


def check_categories_seen(job: JobSpec, held_out: PreparedSource, fitted: Sequence[dict[str, Any]]) -> None:
    """Refuse an evaluation sample with a category that no training sample has now, not at the first evaluation; of a
    large source that would be a second reading, so there it is left to the evaluation.
    """
    if sum(file.bytes for file in held_out.index.files) > _SMALL_BYTES:
        return
    for section, learned in zip(job.data.transforms, fitted, strict=True):
        layouts = tuple(one for one in held_out.layouts if one.name == section.tensor)
        if section.kind == "encode" and section.unseen == "error" and layouts:
            column = held_out.model_copy(update={"layouts": layouts})
            with placed([column]):
                for batch in training_batches([column], job.training.seed):
                    kind_of(section).apply(section, learned, batch)
