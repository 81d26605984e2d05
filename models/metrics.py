"""More metrics of an evaluation than means: what is added up over its batches, and what comes of the sums.

A *statistic* is a tensor that adds up over batches and workers, or rows that are put together over them, so that what comes
of it does not depend on how samples were split. Shapes: N samples (or tokens), C classes, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.models.text_scores import WRITTEN, Spell, scored

Statistics = dict[str, tuple[Tensor, Tensor | None]]
"""Name -> (sum, count), both added up; or (rows, None), put together."""

_RATES = ("precision", "recall", "f1")
_RANKED = ("auroc", "average_precision")


@dataclass(frozen=True)
class Totals:
    """Statistics of a whole evaluation, over all workers, on the CPU."""

    sums: Mapping[str, Tensor] = field(default_factory=dict)
    """float64."""
    counts: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation came to."""

    values: dict[str, float]
    """Metrics by name."""
    confusion: np.ndarray[Any, Any] | None = None
    """(C, C) samples by true class and by predicted class, where it was asked for."""


def of_classes(
    asked: Collection[str], top_k: Sequence[int], logits_NC: Tensor, label_N: Tensor, weight_N: Tensor
) -> Statistics:
    """Of samples that have one class each; the weight of padding is 0."""
    classes, found = logits_NC.shape[1], Statistics()
    if any(name in asked for name in (*_RATES, "confusion_matrix")):
        place_N = label_N * classes + logits_NC.argmax(1)
        counts = torch.zeros(classes * classes, dtype=torch.float64, device=logits_NC.device)
        counts.index_add_(0, place_N, weight_N.double())
        found["confusion"] = counts.reshape(classes, classes), weight_N.sum()
    if any(name in asked for name in _RANKED):
        rows = [logits_NC.softmax(1), label_N[:, None].float(), weight_N[:, None].float()]
        found["class_scores"] = torch.cat(rows, dim=1), None
    for k in top_k:
        among_N = (logits_NC.topk(min(k, classes), dim=1).indices == label_N[:, None]).any(1)
        found[f"accuracy_top_{k}"] = (among_N * weight_N).double().sum(), weight_N.double().sum()
    return found


def of_labels(asked: Collection[str], logits_NO: Tensor, label_NO: Tensor, weight_NO: Tensor) -> Statistics:
    """Of samples that have one or several labels which are yes or no, each with a weight of its own."""
    found = Statistics()
    if any(name in asked for name in (*_RATES, "confusion_matrix")):
        said_NO, is_NO, weight = logits_NO > 0, label_NO > 0.5, weight_NO.double()
        outcomes = [said_NO & is_NO, said_NO & ~is_NO, ~said_NO & is_NO, ~said_NO & ~is_NO]
        found["outcomes"] = torch.stack([(one * weight).sum(0) for one in outcomes]), weight.sum()
    if any(name in asked for name in _RANKED):
        known_NO = label_NO.float().masked_fill(weight_NO == 0, torch.nan)
        rows = [logits_NO, known_NO, (weight_NO > 0).any(1, keepdim=True).float()]
        found["label_scores"] = torch.cat(rows, dim=1), None
    return found


def of_numbers(
    asked: Collection[str], predicted_NO: Tensor, label_NO: Tensor, weight_NO: Tensor
) -> Statistics:
    """Of samples that have one or several numbers, each with a weight of its own."""
    if "r2" not in asked:
        return {}
    label, weight = label_NO.double(), weight_NO.double()
    parts = [torch.ones_like(label), label, label.square(), (predicted_NO.double() - label).square()]
    return {"moments": (torch.stack([(part * weight).sum(0) for part in parts]), weight.sum())}


def summarized(
    asked: Collection[str],
    totals: Totals,
    classes: Sequence[str] = (),
    token_bytes: np.ndarray[Any, Any] | None = None,
    spell: Spell | None = None,
) -> Evaluated:
    """All metrics of an evaluation.

    Precision, recall and F1 are 0 where they divide by nothing; ``_macro`` is the mean over classes that occur, as a label or
    as a prediction. AUROC and average precision of several classes are those of one against the rest, the mean over
    classes that some samples have and some have not.

    Args:
        asked: as an objective's ``metrics`` has them.
        totals: of the statistics that the objective gave for them.
        classes: names of the classes, in the order of the outputs; numbers stand in for missing ones.
        token_bytes: (vocabulary,) bytes of text that each token stands for, where these are counted.
        spell: tokens that were written as text, where texts are scored.
    """
    values = {
        name: total.item() / max(totals.counts[name], 1e-12)
        for name, total in totals.sums.items()
        if total.dim() == 0
    }
    confusion = None
    if "confusion" in totals.sums:
        matrix = totals.sums["confusion"].numpy()
        values |= _rates(asked, _outcomes(matrix), classes)
        confusion = matrix if "confusion_matrix" in asked else None
    if "outcomes" in totals.sums:
        outcomes = totals.sums["outcomes"].numpy()
        values |= _rates(asked, outcomes, classes)
        if "confusion_matrix" in asked and outcomes.shape[1] == 1:
            right, wrong_yes, wrong_no, right_no = outcomes[:, 0]
            confusion = np.array([[right_no, wrong_yes], [wrong_no, right]])
    for name, rows in totals.rows.items():
        if name == WRITTEN:
            assert spell is not None
            values |= scored(asked, rows.numpy(), spell)
        else:
            values |= dict(_ranked(asked, *_split(name, rows.numpy()), classes))
    if "moments" in totals.sums:
        values["r2"] = _r2(totals.sums["moments"].numpy())
    if "perplexity" in asked:
        values["perplexity"] = math.exp(min(values["loss"], 700.0))
    if token_bytes is not None and "tokens" in totals.sums:
        size = float(totals.sums["tokens"].numpy() @ token_bytes)
        values["bits_per_byte"] = totals.sums["loss"].item() / (math.log(2) * max(size, 1e-12))
    return Evaluated(values, confusion)


def _outcomes(confusion: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(4, C): for each class, samples that rightly, wrongly, wrongly not and rightly not were given it."""
    right = np.diag(confusion)
    given, true = confusion.sum(0), confusion.sum(1)
    return np.stack([right, given - right, true - right, confusion.sum() - given - true + right])


def _rates(
    asked: Collection[str], outcomes: np.ndarray[Any, Any], classes: Sequence[str]
) -> dict[str, float]:
    made: dict[str, float] = {}
    right, wrong_yes, wrong_no, _ = outcomes
    occurs = right + wrong_yes + wrong_no > 0
    for name in (one for one in _RATES if one in asked):
        each = _rate(name, right, wrong_yes, wrong_no)
        if len(each) == 1:
            made[name] = float(each[0])
            continue
        made[f"{name}_macro"] = float(each[occurs].mean()) if occurs.any() else 0.0
        made[f"{name}_micro"] = float(_rate(name, right.sum(), wrong_yes.sum(), wrong_no.sum()))
        if "per_class" in asked:
            made |= {f"{name}/{_named(classes, index)}": float(value) for index, value in enumerate(each)}
    return made


def _rate(name: str, right: Any, wrong_yes: Any, wrong_no: Any) -> Any:
    of = {
        "precision": right + wrong_yes,
        "recall": right + wrong_no,
        "f1": right + (wrong_yes + wrong_no) / 2,
    }[name]
    return np.divide(right, of, out=np.zeros_like(np.asarray(right, float)), where=np.asarray(of) > 0)


def _named(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else str(index)


def _split(name: str, rows: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scores (N, O) and labels (N, O), 0, 1 or NaN where there is none, of samples that are no padding."""
    rows = rows[rows[:, -1] > 0]
    if name == "class_scores":
        scores = rows[:, :-2]
        return scores, (rows[:, -2:-1] == np.arange(scores.shape[1])).astype(scores.dtype)
    outputs = (rows.shape[1] - 1) // 2
    return rows[:, :outputs], rows[:, outputs:-1]


def _ranked(
    asked: Collection[str],
    scores_NO: np.ndarray[Any, Any],
    label_NO: np.ndarray[Any, Any],
    classes: Sequence[str],
) -> Iterator[tuple[str, float]]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    measures = {"auroc": roc_auc_score, "average_precision": average_precision_score}
    there_NO = ~np.isnan(label_NO)
    mixed = [
        index
        for index, there in enumerate(there_NO.T)
        if 0 < label_NO[there, index].sum() < np.count_nonzero(there)
    ]
    for name in (one for one in _RANKED if one in asked):
        each = {
            index: float(
                measures[name](label_NO[there_NO[:, index], index], scores_NO[there_NO[:, index], index])
            )
            for index in mixed
        }
        if each:
            yield name, math.fsum(each.values()) / len(each)
        if "per_class" in asked and label_NO.shape[1] > 1:
            for index, value in each.items():
                yield f"{name}/{_named(classes, index)}", value


def _r2(moments: np.ndarray[Any, Any]) -> float:
    """Share of the variance that is explained, the mean over numbers to predict; 0 of one that never varies."""
    count, total, squares, errors = moments
    spread = squares - total**2 / np.maximum(count, 1e-12)
    varies = spread > 1e-12 * np.maximum(squares, 1e-300)
    explained = 1 - np.divide(errors, spread, out=np.ones_like(errors), where=varies)
    return float(explained.mean())
