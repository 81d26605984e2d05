"""A model's answers as columns, of the same names and types whatever the rows are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.telemetry.answers import PROBABILITIES

PREDICTION, CONTINUATION = "prediction", "continuation"
"""Columns of numbers that speak for themselves, and of how texts go on."""
_INPUT = "input_"


def column_of_texts(kind: str) -> str:
    """The column of what a model writes, by the kind of its objective."""
    return CONTINUATION if kind == "causal_lm" else PREDICTION


def table_of_frame(frame: Any, kind: str, names: Sequence[str]) -> pa.Table:
    """A DataFrame of ``telemetry.answers``.

    Args:
        frame: the answers.
        kind: of the objective.
        names: of the classes; empty where the data has numbers for them.
    """
    lists = {
        "classes": pa.list_(pa.string() if names or kind == "multilabel" else pa.int64()),
        PROBABILITIES: pa.list_(pa.float64()),
    }
    columns = {}
    for name in frame:
        values = frame[name]
        is_list = name in lists and (name != PROBABILITIES or kind == "token_classification")
        columns[str(name)] = pa.array(values.tolist(), lists[name]) if is_list else pa.array(values)
    return pa.table(columns)


def table_of_numbers(outputs: np.ndarray) -> pa.Table:
    """Outputs (rows, ...): one number of each row, or lists of them."""
    one_each = outputs.size == len(outputs)
    values = outputs.reshape(-1) if one_each else outputs.tolist()
    nested: Any = pa.float32()
    for _ in range(0 if one_each else outputs.ndim - 1):
        nested = pa.list_(nested)
    return pa.table({PREDICTION: pa.array(values, nested)})


def beside(kept: pa.Table, answers: pa.Table) -> pa.Table:
    """Columns of the data, then the answers. A column of the data that is called like one of the answers gets ``input_``
    before its name.
    """
    taken = set(answers.column_names)
    names = [_INPUT + name if name in taken else name for name in kept.column_names]
    columns = [*kept.columns, *answers.columns]
    return pa.table(columns, names=[*names, *answers.column_names])
