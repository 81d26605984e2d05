"""What is known of bundled tables without a look at them, so that a plan needs neither scikit-learn, Arrow nor files."""

from __future__ import annotations

from orchestrator.data.columns.missing import missing_tensors
from orchestrator.data.held_out import held_out_rows
from orchestrator.planning.plan import DataFacts
from orchestrator.spec.data import BuiltinSource, Split
from orchestrator.spec.job import JobSpec

FACTS: dict[str, tuple[int, dict[str, int]]] = {
    "digits": (1797, {"features": 64, "channels": 1, "image_size": 8, "classes": 10}),
    "breast_cancer": (569, {"features": 30, "classes": 2}),
    "wine": (178, {"features": 13, "classes": 3}),
    "diabetes": (442, {"features": 10}),
    "iris": (150, {"features": 4, "classes": 3}),
}
"""Name -> rows and sizes, of scikit-learn's tables. A test compares them with the data."""


def bundled_facts(job: JobSpec) -> DataFacts | None:
    """The facts of a job's data; None where it is other data, or must be looked at."""
    spec = job.data
    plain = all(
        transform.kind in ("normalize", "scale", "random_crop", "random_flip")
        for transform in spec.transforms
    )
    if not isinstance(spec.train, BuiltinSource) or spec.train.name not in FACTS or spec.prepare or not plain:
        return None
    if spec.columns not in ({}, {"features": "image"}):
        return None
    rows, known = FACTS[spec.train.name]
    values = "image" if "image_size" in known and not spec.columns else "features"
    if missing_tensors(job, (values, "label")):
        return None
    if any(name not in (values, "label") for transform in spec.transforms for name in transform.reads):
        return None
    dims = {name: size for name, size in known.items() if name != "classes"}
    dims["outputs"] = known.get("classes", 1)
    if job.model.inputs_by_name:  # their shapes are looked at
        return None
    if spec.eval is None:
        return DataFacts(train_samples=rows, eval_samples=0, dims=dims)
    if isinstance(spec.eval, Split) and spec.eval.group is not None:
        return None
    if isinstance(spec.eval, Split):
        held = held_out_rows(rows, spec.eval.fraction)
        return DataFacts(train_samples=rows - held, eval_samples=held, dims=dims)
    if isinstance(spec.eval, BuiltinSource) and spec.eval.name in FACTS:
        return DataFacts(train_samples=rows, eval_samples=FACTS[spec.eval.name][0], dims=dims)
    return None
