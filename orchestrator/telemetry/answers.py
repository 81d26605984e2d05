"""What a model's outputs mean to whoever asks it: classes and probabilities, errors, forecasts with their times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CLASS, PROBABILITY, PROBABILITIES = "class", "probability", "probabilities"
"""Columns of a classifier's answer: what it takes a row for, how sure it is of that, and of every class by name."""

HEARD = "heard"
"""Column of the text that is heard in a sound."""

TOKENS = 128
"""That a language model writes at most, unless it is told."""

WRITERS = ("causal_lm", "sequence_to_sequence")
"""Kinds of objective whose models answer a text with a text."""

_CERTAIN = 0.5


def answer(kind: str, outputs: np.ndarray, names: Sequence[str], lengths: np.ndarray | None = None) -> Any:
    """The outputs of a model as a person reads them; those that speak for themselves as they are.

    Args:
        kind: of the objective.
        outputs: (rows, ...), as the model gives them.
        names: of the classes, in the order of the outputs; empty where the data has numbers for them.
        lengths: tokens of each row, where rows differ in that.

    """
    match kind:
        case "classification":
            return _classes(_softmax(outputs), names)
        case "binary":
            yes = _sigmoid(outputs.reshape(len(outputs)))
            return _classes(np.stack([1 - yes, yes], axis=1), names)
        case "multilabel":
            return _labels(_sigmoid(outputs), names)
        case "token_classification":
            return _token_classes(_softmax(outputs), names, lengths)
        case "ctc":
            return _texts(outputs, names, lengths)
    return outputs


def reconstruction_errors(given: np.ndarray, outputs: np.ndarray) -> pd.DataFrame:
    """Each sample's anomaly score: the mean squared error (rows,) of what came back, (rows, ...)."""
    import pandas as pd

    squared = (given.reshape(len(given), -1) - outputs.reshape(len(outputs), -1)) ** 2
    return pd.DataFrame({"error": squared.mean(axis=1)})


def forecast_table(
    rows: np.ndarray, series: Sequence[str], time: str | None, past: Any, step: int | None
) -> pd.DataFrame:
    """A forecast (horizon, series) with the times that follow those of the past, where these are known.

    Args:
        rows: the forecast in the series' own units.
        series: their names.
        time: the column that says when a row was.
        past: that column of the past's rows, as a pandas Series; None where they have none.
        step: the training rows' usual step, in microseconds, or in the column's own units where it holds numbers.

    """
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(series))
    if time is not None and past is not None:
        table.insert(0, time, times_after(past, len(rows), step))
    return table


def times_after(past: Any, count: int, step: int | None) -> Any:
    """The ``count`` times that follow: by the calendar where the past keeps to one (months, working days), else by the
    usual step.
    """
    import pandas as pd

    if pd.api.types.is_numeric_dtype(past):
        return past.iloc[-1] + (step or 1) * np.arange(1, count + 1)
    moments = pd.DatetimeIndex(pd.to_datetime(past), freq="infer" if len(past) > 2 else None)
    rule = moments.freq
    if rule is not None:
        return pd.date_range(moments[-1], periods=count + 1, freq=rule)[1:]
    return moments[-1] + pd.to_timedelta((step or 0) * np.arange(1, count + 1), unit="us")


def _classes(probability_BC: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    best = probability_BC.argmax(axis=1)
    return pd.DataFrame(
        {
            CLASS: [names[index] for index in best] if names else best,
            PROBABILITY: probability_BC.max(axis=1),
            PROBABILITIES: [_by_name(row, names) for row in probability_BC],
        }
    )


def _labels(probability_BC: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    named = [_by_name(row, names) for row in probability_BC]
    sure = [[name for name, probability in row.items() if probability >= _CERTAIN] for row in named]
    return pd.DataFrame({"classes": sure, PROBABILITIES: named})


def _token_classes(
    probability_BTC: np.ndarray, names: Sequence[str], lengths: np.ndarray | None
) -> pd.DataFrame:
    import pandas as pd

    rows = probability_BTC.shape[1]
    ends = [rows] * len(probability_BTC) if lengths is None else [int(length) for length in lengths]
    shown = [row[:end] for row, end in zip(probability_BTC, ends, strict=True)]
    best = [row.argmax(axis=1) for row in shown]
    return pd.DataFrame(
        {
            "classes": [[names[index] if names else int(index) for index in row] for row in best],
            PROBABILITIES: [row.max(axis=1).tolist() for row in shown],
        }
    )


def _texts(outputs_BTO: np.ndarray, names: Sequence[str], lengths: np.ndarray | None) -> pd.DataFrame:
    """What is heard, by greedy decoding."""
    import pandas as pd

    from orchestrator.models.objectives.ctc import greedy

    frames = [outputs_BTO.shape[1]] * len(outputs_BTO) if lengths is None else [int(one) for one in lengths]
    heard = greedy(outputs_BTO.argmax(-1).tolist(), frames)
    return pd.DataFrame({HEARD: ["".join(names[one] for one in text) for text in heard]})


def _by_name(row: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    return {names[index] if names else str(index): float(value) for index, value in enumerate(row)}


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    whole: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return whole


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    half: np.ndarray = np.tanh(logits.astype(np.float64) / 2)
    return (1 + half) / 2
