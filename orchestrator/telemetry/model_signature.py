"""What a logged model says of itself in MLflow: the columns it takes, what it answers, and an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.data import Inputs
from orchestrator.planning.plan import ResolvedJob
from orchestrator.telemetry.answers import CLASS, HEARD, PROBABILITIES, PROBABILITY, TOKENS, WRITERS


def signature_of(job: ResolvedJob, inputs: Inputs, example: Sequence[Mapping[str, Any]]) -> Any:
    """MLflow's signature.

    Only text is given a type: MLflow refuses whole numbers where a signature says fractions, and the model itself reads
    each column as training did, and says itself which is missing. Where it reads one column that has no name, so that a list will do.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType

    first = example[0] if example else {}

    def column(name: str, *, named: bool) -> Any:
        kind = "string" if isinstance(first.get(name), str) and name == inputs.text_column else AnyType()
        return ColSpec(kind, name if named else None, required=not named)

    columns = inputs.columns or tuple(job.model.export_tensors(job.objective))
    taken = Schema([column(name, named=len(columns) > 1 or not inputs.columns) for name in columns])
    params = [ParamSpec("raw", "boolean", False)]
    if job.objective.kind == "causal_lm":
        params = [ParamSpec("tokens", "long", TOKENS)]
        if job.objective.beams == 1:  # a beam search draws none
            params += [ParamSpec("seed", "long", 0), ParamSpec("temperature", "double", 1.0)]
    if job.objective.kind == "sequence_to_sequence":
        params = [ParamSpec("tokens", "long", TOKENS)]
    return ModelSignature(taken, _answered(job, inputs), ParamSchema(params))


def _answered(job: ResolvedJob, inputs: Inputs) -> Any:
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array, Map

    of_class = "string" if inputs.classes else "long"
    match job.objective.kind:
        case "classification" | "binary":
            columns = {CLASS: of_class, PROBABILITY: "double", PROBABILITIES: Map("double")}
        case "multilabel":
            columns = {"classes": Array("string"), PROBABILITIES: Map("double")}
        case "token_classification":
            columns = {"classes": Array(of_class), PROBABILITIES: Array("double")}
        case "forecasting" if inputs.columns:
            beside = {name: AnyType() for name in inputs.columns if name not in inputs.series}
            columns = beside | dict.fromkeys(inputs.series, "double")
        case "ctc":
            columns = {HEARD: "string"}
        case "reconstruction":
            columns = {"error": "double"}
        case kind if kind in WRITERS and inputs.text_column is not None:
            return Schema([ColSpec("string")])
        case _:
            return Schema([TensorSpec(np.dtype(np.float32), (-1,))])
    return Schema([ColSpec(kind, name) for name, kind in columns.items()])


def example_of(inputs: Inputs, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows as MLflow takes an example: a DataFrame of the columns that are read; None where there are none."""
    import pandas as pd

    if not rows or not inputs.columns or any(name not in rows[0] for name in inputs.columns):
        return None
    return pd.DataFrame([{name: row[name] for name in inputs.columns} for row in rows])
