"""Refusals that need more than one source, or the tensors as the model gets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.data.fit import training_batches
from orchestrator.data.prepared import PreparedSource
from orchestrator.data.transforms import Batch, kind_of
from orchestrator.errors import DataError
from orchestrator.spec.job import JobSpec

_SMALL_BYTES = 2**26


def check_numbers(head: Batch) -> None:
    """Refuse a tensor that is still text once all transforms were applied."""
    for name, values in head.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
            if isinstance(values, np.ndarray) and values.dtype.kind == "M":
                raise DataError(
                    f"data.columns.{name}: its column holds dates; {{kind: date, tensor: {name}}} under data.transforms"
                    " makes them numbers"
                )
            raise DataError(
                f"data.columns.{name}: its column holds text, and no transform turns it into numbers;"
                f" add {{kind: encode, tensor: {name}}} under data.transforms, or leave it out"
            )


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
            for batch in training_batches([column], job.training.seed):
                kind_of(section).apply(section, learned, batch)
