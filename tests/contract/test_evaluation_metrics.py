"""Metrics of an evaluation are those of scikit-learn on all samples at once, however many workers evaluated them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ranks_fixture import Pools, pools
from sklearn import metrics as expected
from torch import Tensor, nn

from orchestrator import loop
from orchestrator.models import build_objective
from orchestrator.models.configs import (
    BinaryConfig,
    CausalLmConfig,
    ClassificationConfig,
    GptConfig,
    MlpConfig,
    MultilabelConfig,
    ObjectiveConfig,
    RegressionConfig,
)
from orchestrator.models.metrics import Evaluated
from orchestrator.testing import RecordingEngine

__all__ = ["pools"]

LABELS: Any = ("precision", "recall", "f1", "auroc", "average_precision", "confusion_matrix", "per_class")
SAMPLES, CLASSES = 101, 4
CONFIGS: dict[str, ObjectiveConfig] = {
    "classification": ClassificationConfig(metrics=LABELS, top_k=(2,)),
    "binary": BinaryConfig(metrics=LABELS),
    "multilabel": MultilabelConfig(metrics=LABELS),
    "missing labels": MultilabelConfig(metrics=LABELS, missing_labels=True),
    "regression": RegressionConfig(metrics=("r2",)),
    "missing numbers": RegressionConfig(metrics=("r2",), missing_labels=True),
}
NAMES = ("ant", "bee", "cat", "dog")


class Given(nn.Module):
    """Predicts what it is given."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def samples(kind: str) -> tuple[Tensor, Tensor]:
    """Outputs and labels; of the last class no sample is, so that it has no AUROC."""
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(SAMPLES, 1 if kind == "binary" else CLASSES, generator=generator)
    outputs = (outputs * 4).round() / 4  # with ties
    if kind == "classification":
        return outputs, torch.randint(0, CLASSES - 1, (SAMPLES,), generator=generator)
    if kind in ("regression", "missing numbers"):
        labels = outputs + torch.randn(outputs.shape, generator=generator)
        if kind == "missing numbers":
            labels[torch.rand(labels.shape, generator=generator) < 0.6] = torch.nan
        return outputs, labels
    labels = torch.randint(0, 2, outputs.shape, generator=generator).squeeze(1)
    if kind == "missing labels":
        return outputs, labels.float().masked_fill(
            torch.rand(labels.shape, generator=generator) < 0.6, torch.nan
        )
    return outputs, labels


def evaluated(kind: str, rank: int = 0, ranks: int = 1) -> Evaluated:
    """What a rank finds of its share, in batches of ten of which the last is padded."""
    config = MlpConfig(in_features=CLASSES, outputs=CLASSES)
    objective = build_objective(config, CONFIGS[kind])
    outputs, labels = samples(kind)
    rows = torch.arange(-(-SAMPLES // (10 * ranks)) * 10 * ranks).reshape(-1, ranks, 10)[:, rank]
    batches = [
        {
            "features": outputs[chosen.clamp(max=SAMPLES - 1)],
            "label": labels[chosen.clamp(max=SAMPLES - 1)],
            "weight": (chosen < SAMPLES).float(),
        }
        for chosen in rows
    ]
    engine = RecordingEngine({"model": Given()})
    return loop.evaluate(engine, objective, iter(batches), CONFIGS[kind].measured, NAMES)


def on_a_rank(kind: str) -> dict[str, float]:
    return evaluated(kind, torch.distributed.get_rank(), torch.distributed.get_world_size()).values


def by_sklearn(kind: str) -> dict[str, float]:
    outputs, labels = samples(kind)
    truth, made = labels.numpy(), dict[str, float]()
    if kind in ("regression", "missing numbers"):
        there = ~np.isnan(truth)
        columns = [
            (truth[there[:, index], index], outputs[there[:, index], index].numpy())
            for index in range(CLASSES)
        ]
        error = (outputs.numpy() - truth)[there]
        return {
            "r2": float(np.mean([expected.r2_score(*column) for column in columns])),
            "mse": float(np.square(error).mean()),
            "mae": float(np.abs(error).mean()),
        }
    if kind == "binary":
        said = (outputs[:, 0] > 0).numpy()
        return {
            "precision": expected.precision_score(truth, said),
            "recall": expected.recall_score(truth, said),
            "f1": expected.f1_score(truth, said),
            "auroc": expected.roc_auc_score(truth, outputs[:, 0].numpy()),
            "average_precision": expected.average_precision_score(truth, outputs[:, 0].numpy()),
        }
    if kind == "missing labels":
        return of_labels_that_are_there(truth, outputs.numpy())
    said = (outputs > 0).numpy() if kind == "multilabel" else outputs.argmax(1).numpy()
    yes = truth if kind == "multilabel" else truth[:, None] == np.arange(CLASSES)
    scores = (outputs if kind == "multilabel" else outputs.softmax(1)).numpy()
    rates = {
        "precision": expected.precision_score,
        "recall": expected.recall_score,
        "f1": expected.f1_score,
    }
    for name, score in rates.items():
        for average in ("macro", "micro"):
            made[f"{name}_{average}"] = score(truth, said, average=average, zero_division=0)
        each = score(truth, said, average=None, labels=range(CLASSES), zero_division=0)
        made |= {f"{name}/{NAMES[index]}": value for index, value in enumerate(each)}
    mixed = [index for index in range(CLASSES) if yes[:, index].any()]
    for name, score in (
        ("auroc", expected.roc_auc_score),
        ("average_precision", expected.average_precision_score),
    ):
        each = [score(yes[:, index], scores[:, index]) for index in mixed]
        made[name] = float(np.mean(each))
        made |= {f"{name}/{NAMES[index]}": value for index, value in zip(mixed, each, strict=True)}
    if kind == "classification":
        made["accuracy_top_2"] = expected.top_k_accuracy_score(truth, scores, k=2, labels=range(CLASSES))
    return made


def of_labels_that_are_there(truth: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    there = ~np.isnan(truth)
    made = {"accuracy": float(((scores > 0) == truth)[there].mean())}
    columns = [(truth[there[:, i], i], scores[there[:, i], i]) for i in range(CLASSES)]
    binary = {"average": "binary", "zero_division": 0}
    rates = {
        "precision": expected.precision_score,
        "recall": expected.recall_score,
        "f1": expected.f1_score,
    }
    for name, score in rates.items():
        made[f"{name}_micro"] = score(truth[there], (scores > 0)[there], **binary)
        each = [score(labels, said > 0, **binary) for labels, said in columns]
        made[f"{name}_macro"] = float(np.mean(each))
        made |= {f"{name}/{NAMES[index]}": value for index, value in enumerate(each)}
    for name, score in (
        ("auroc", expected.roc_auc_score),
        ("average_precision", expected.average_precision_score),
    ):
        each = [score(*column) for column in columns]
        made[name] = float(np.mean(each))
        made |= {f"{name}/{NAMES[index]}": value for index, value in enumerate(each)}
    return made


@pytest.mark.parametrize("kind", CONFIGS)
def test_one_worker_and_two_measure_what_scikit_learn_does(pools: Pools, kind: str) -> None:
    alone = evaluated(kind).values
    wanted = by_sklearn(kind)
    assert alone.keys() - wanted.keys() <= {"loss", "accuracy", "mse", "mae"}
    if kind == "classification":  # of equal scores scikit-learn takes others
        assert alone["accuracy_top_2"] == pytest.approx(wanted.pop("accuracy_top_2"), abs=0.02)
    assert {name: alone[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    first, second = pools.run(2, on_a_rank, kind)
    assert first == second
    assert first == pytest.approx(alone, rel=1e-6)
    counted = [name for name in wanted if name != "r2"]
    assert {name: first[name] for name in counted} == {name: alone[name] for name in counted}, "bit for bit"


def test_the_confusion_matrix_has_true_classes_as_rows() -> None:
    outputs, labels = samples("classification")
    matrix = evaluated("classification").confusion
    assert matrix is not None
    assert (matrix == expected.confusion_matrix(labels, outputs.argmax(1), labels=range(CLASSES))).all()
    outputs, labels = samples("binary")
    matrix = evaluated("binary").confusion
    assert matrix is not None
    assert (matrix == expected.confusion_matrix(labels, outputs[:, 0] > 0)).all()


def test_what_is_asked_for_can_be_what_the_best_checkpoint_is_kept_by() -> None:
    assert "f1_macro" in CONFIGS["classification"].metric_names
    assert "accuracy_top_2" in CONFIGS["classification"].metric_names
    assert "f1" in CONFIGS["binary"].metric_names
    assert CausalLmConfig(metrics=("perplexity",)).metric_names == ("accuracy", "perplexity")


def test_perplexity_is_the_exponential_of_the_loss() -> None:
    class Same(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return torch.zeros(*tokens.shape, 11)

    asked = CausalLmConfig(metrics=("perplexity",))
    config = GptConfig(vocabulary=11, context=4, layers=1, heads=1, width=4)
    objective = build_objective(config, asked)
    batch = {"tokens": torch.ones(2, 5, dtype=torch.int64)}
    found = loop.evaluate(RecordingEngine({"model": Same()}), objective, iter([batch]), asked.measured)
    assert found.values["perplexity"] == pytest.approx(11)
