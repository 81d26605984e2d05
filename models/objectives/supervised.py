"""A label for each sample (or token): classification, regression, and yes-or-no labels.

Shapes: B samples, O outputs, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.base import Batch, Sums, TensorSpec, weights_of
from orchestrator.models.configs import (
    BinaryConfig,
    ClassificationConfig,
    FamilyConfig,
    MultilabelConfig,
    ObjectiveConfig,
)
from orchestrator.models.objectives.common import OnePhase, forward

NO_LABEL = -100
"""A token's label that stands for none."""


class Supervised(OnePhase):
    """What a label says of a sample. The model's forward takes the family's input tensors in their order."""

    def __init__(self, config: FamilyConfig, objective: ObjectiveConfig) -> None:
        self._tensors = config.input_tensors(objective)
        self._by_name = config.inputs_by_name
        self._outputs = config.outputs_for(objective)

    def inputs(self) -> Mapping[str, TensorSpec]:
        """The family's inputs, and the label."""
        return {**self._tensors, "label": self.label()}

    def label(self) -> TensorSpec:
        """What a label is."""
        raise NotImplementedError

    @property
    def units_per_sample(self) -> int | None:
        """One unit a sample."""
        return 1

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Samples that are not padding, times the units of each."""
        return weights_of(batch, batch["label"]).sum() * (self.units_per_sample or 1)

    def predict(self, modules: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        """The model's outputs in fp32: (B, O)."""
        given = {name: batch.get(name) for name in self._tensors}
        return forward(modules["model"], given, by_name=self._by_name).float()


class Classification(Supervised):
    """Cross-entropy over classes."""

    def __init__(self, config: FamilyConfig, objective: ClassificationConfig) -> None:
        super().__init__(config, objective)
        self._label_smoothing = objective.label_smoothing

    def label(self) -> TensorSpec:
        """A class."""
        return TensorSpec((), "int", below=self._outputs)

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """Unit: sample."""
        logits_BO, label_B = self.predict(modules, batch), batch["label"].long()
        weight_B = weights_of(batch, label_B)
        loss_B = F.cross_entropy(logits_BO, label_B, reduction="none", label_smoothing=self._label_smoothing)
        count = weight_B.sum()
        right = ((logits_BO.argmax(-1) == label_B) * weight_B).sum()
        return Sums((loss_B * weight_B).sum(), count, {"accuracy": (right, count)})


class Regression(Supervised):
    """Mean squared error over all numbers to predict."""

    @property
    def units_per_sample(self) -> int | None:
        """Numbers to predict of one sample."""
        return self._outputs

    def label(self) -> TensorSpec:
        """A number or several."""
        return TensorSpec((self._outputs,) if self._outputs > 1 else (), "float")

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """Unit: number to predict."""
        predicted_BO = self.predict(modules, batch)
        label_BO = batch["label"].float().reshape(predicted_BO.shape)
        weight_B = weights_of(batch, label_BO)
        error_BO = predicted_BO - label_BO
        squared = (error_BO.square().sum(1) * weight_B).sum()
        absolute = (error_BO.detach().abs().sum(1) * weight_B).sum()
        count = weight_B.sum() * self._outputs
        return Sums(squared, count, {"mse": (squared.detach(), count), "mae": (absolute, count)})


class YesNo(Supervised):
    """Logistic loss of one yes-or-no label (``binary``) or of several (``multilabel``)."""

    def __init__(self, config: FamilyConfig, objective: BinaryConfig | MultilabelConfig) -> None:
        super().__init__(config, objective)
        self._positive_weight = objective.positive_weight

    @property
    def units_per_sample(self) -> int | None:
        """Labels of one sample."""
        return self._outputs

    def label(self) -> TensorSpec:
        """0 or 1, once or several times."""
        return TensorSpec((self._outputs,) if self._outputs > 1 else (), "int", below=2)

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """Unit: label."""
        logits_BO = self.predict(modules, batch)
        label_BO = batch["label"].float().reshape(logits_BO.shape)
        weight_B = weights_of(batch, label_BO)
        positive: Any = torch.full((), self._positive_weight, device=logits_BO.device)
        loss_BO = F.binary_cross_entropy_with_logits(
            logits_BO, label_BO, reduction="none", pos_weight=positive
        )
        right_BO = (logits_BO.detach() > 0) == (label_BO > 0.5)
        count = weight_B.sum() * self._outputs
        right = (right_BO.sum(1) * weight_B).sum()
        return Sums((loss_BO.sum(1) * weight_B).sum(), count, {"accuracy": (right, count)})


class TokenClassification(Supervised):
    """Cross-entropy over classes of each real token that has a label."""

    def label(self) -> TensorSpec:
        """A class for each token, or none."""
        return TensorSpec((None,), "int", below=self._outputs, ignored=NO_LABEL)

    @property
    def units_per_sample(self) -> int | None:
        """Samples differ in how many labels they have."""
        return None

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Tokens that have a label."""
        label_BT = _real_labels(batch)
        return ((label_BT != NO_LABEL).sum(1) * weights_of(batch, label_BT)).sum()

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """Unit: labeled token."""
        logits_BTO, label_BT = self.predict(modules, batch), _real_labels(batch)
        weight_B = weights_of(batch, label_BT)
        loss_BT = F.cross_entropy(
            logits_BTO.transpose(1, 2), label_BT, reduction="none", ignore_index=NO_LABEL
        )
        count = self.units(phase, batch)
        right = ((logits_BTO.argmax(-1) == label_BT).sum(1) * weight_B).sum()
        return Sums((loss_BT.sum(1) * weight_B).sum(), count, {"accuracy": (right, count)})


def _real_labels(batch: Batch) -> Tensor:
    """Labels (B, T): none of what fills a sequence up, whatever stands there."""
    label_BT = batch["label"].long()
    if "length" not in batch:
        return label_BT
    position_T = torch.arange(label_BT.shape[1], device=label_BT.device)
    return label_BT.masked_fill(position_T >= batch["length"][:, None], NO_LABEL)
