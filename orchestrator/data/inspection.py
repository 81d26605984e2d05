"""What can be said about a job's data before it runs, cheaply: for ``validate`` and ``plan``."""

from __future__ import annotations

import math

from orchestrator.data.builtin import FACTS
from orchestrator.data.prepare import prepare_job
from orchestrator.planning.plan import DataFacts
from orchestrator.spec.data import BuiltinSource, Split
from orchestrator.spec.job import JobSpec


def inspect(job: JobSpec, base_dir: str, cache: str) -> DataFacts:
    """What is known of the data.

    Raises:
        DataError: the data is not as the job says.
    """
    known = _bundled(job)
    if known is not None:
        return known
    prepared = prepare_job(job, base_dir, cache)
    return DataFacts(
        train_samples=prepared.train_samples,
        eval_samples=prepared.eval_samples,
        dims=prepared.dims,
        lists=prepared.lists,
    )


def _bundled(job: JobSpec) -> DataFacts | None:
    """Facts of bundled data from the table, so that a plan needs neither scikit-learn nor files."""
    spec = job.data
    plain = all(transform.kind in ("normalize", "scale") for transform in spec.transforms)
    if not isinstance(spec.train, BuiltinSource) or spec.train.name not in FACTS or spec.prepare or not plain:
        return None
    if isinstance(spec.eval, BuiltinSource) and spec.eval.name not in FACTS:
        return None
    if spec.eval is not None and not isinstance(spec.eval, Split | BuiltinSource):
        return None
    if spec.columns not in ({}, {"features": "image"}):
        return None
    rows, dims = FACTS[spec.train.name]
    dims = dict(dims)
    classes = dims.pop("classes", None)
    dims["outputs"] = classes if classes is not None else 1
    held_out = 0
    if isinstance(spec.eval, Split):
        held_out = min(rows - 1, max(1, round(rows * spec.eval.fraction)))
        rows -= held_out
    elif isinstance(spec.eval, BuiltinSource):
        held_out = FACTS[spec.eval.name][0]
    assert math.isfinite(rows)
    return DataFacts(train_samples=rows, eval_samples=held_out, dims=dims)
