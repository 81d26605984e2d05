"""A label for each sample (or token): classification, regression, and yes-or-no labels.

Shapes: B samples, O outputs, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.base import Batch, Sample, Sums, TensorSpec, weights_of
from orchestrator.models.configs import (
    BinaryConfig,
    ClassificationConfig,
    FamilyConfig,
    MultilabelConfig,
    ObjectiveConfig,
    RegressionConfig,
    TokenClassificationConfig,
)
from orchestrator.models.metrics import Statistics, of_classes, of_labels, of_numbers
from orchestrator.models.objectives.common import OnePhase, forward

NO_LABEL = -100
"""A token's label that stands for none."""
_SAMPLE_SIGNALS = 4


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

    @torch.no_grad()
    def evaluate(
        self, modules: Mapping[str, nn.Module], batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """The loss and its metrics, and the statistics of what else is asked for."""
        predicted = self.predict(modules, batch)
        sums = self.sums(predicted, batch)
        return {"loss": (sums.loss, sums.count), **sums.metrics, **self.statistics(predicted, batch)}

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """See ``Objective.loss``."""
        return self.sums(self.predict(modules, batch), batch)

    def sums(self, predicted: Tensor, batch: Batch) -> Sums:
        """Loss and metrics of what the model predicts."""
        raise NotImplementedError

    def statistics(self, predicted: Tensor, batch: Batch) -> Statistics:
        """Of the metrics that are asked for: see ``models.metrics``."""
        raise NotImplementedError

    def predict(self, modules: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        """The model's outputs in fp32: (B, O)."""
        given = {name: batch.get(name) for name in self._tensors}
        return forward(modules["model"], given, by_name=self._by_name).float()


class OfClasses(Supervised):
    """Cross-entropy over classes, of samples or tokens. Shapes: N of them, O classes."""

    def __init__(
        self, config: FamilyConfig, objective: ClassificationConfig | TokenClassificationConfig
    ) -> None:
        super().__init__(config, objective)
        self._smoothing, self._gamma = objective.label_smoothing, objective.focal_gamma
        self._asked, self._top_k = objective.metrics, objective.top_k
        self._class_weights = objective.class_weights
        self._held_weights: Tensor | None = None

    def _weights(self, device: torch.device) -> Tensor | None:
        """The class weights (O,); copied to the device once."""
        if self._class_weights is None:
            return None
        if self._held_weights is None or self._held_weights.device != device:
            self._held_weights = torch.tensor(self._class_weights, device=device)
        return self._held_weights

    def _unit_weights(self, label_N: Tensor) -> Tensor:
        """What each label counts in the loss; 0 of what has none."""
        has_label_N = (label_N != NO_LABEL).float()
        weights_O = self._weights(label_N.device)
        if weights_O is None:
            return has_label_N
        return weights_O[label_N.clamp(min=0)] * has_label_N

    def _loss(self, logits_NO: Tensor, label_N: Tensor) -> Tensor:
        """(N,); with class weights smoothed targets are weighted by their own class, not by the label's."""
        loss_N = F.cross_entropy(
            logits_NO,
            label_N,
            weight=self._weights(logits_NO.device),
            reduction="none",
            label_smoothing=self._smoothing,
            ignore_index=NO_LABEL,
        )
        if not self._gamma:
            return loss_N
        log_share_N = -F.cross_entropy(logits_NO, label_N, reduction="none", ignore_index=NO_LABEL)
        return loss_N * (1 - log_share_N.exp()).clamp(min=0) ** self._gamma


class Classification(OfClasses):
    """One class for each sample."""

    def label(self) -> TensorSpec:
        """A class."""
        return TensorSpec((), "int", below=self._outputs)

    @property
    def units_per_sample(self) -> int | None:
        """One unit a sample, unless classes weigh differently."""
        return 1 if self._class_weights is None else None

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Samples that are not padding, as their classes weigh."""
        label_B = batch["label"].long()
        return (self._unit_weights(label_B) * weights_of(batch, label_B)).sum()

    def sums(self, predicted: Tensor, batch: Batch) -> Sums:
        """Unit: sample."""
        label_B = batch["label"].long()
        weight_B = weights_of(batch, label_B)
        right = ((predicted.argmax(-1) == label_B) * weight_B).sum()
        loss = (self._loss(predicted, label_B) * weight_B).sum()
        return Sums(loss, self.units("model", batch), {"accuracy": (right, weight_B.sum())})

    def statistics(self, predicted: Tensor, batch: Batch) -> Statistics:
        """Of classes."""
        label_B = batch["label"].long()
        return of_classes(self._asked, self._top_k, predicted, label_B, weights_of(batch, label_B))

    @torch.no_grad()
    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[Sample]:
        """Of signals, which one may listen to: which class the first ones are, and which they are taken for."""
        if "signal" not in self._tensors:
            return []
        few = {name: tensor[: min(count, _SAMPLE_SIGNALS)] for name, tensor in batch.items()}
        label_B, taken_B = few["label"].long(), self.predict(modules, few).argmax(-1)
        shown: list[Sample] = []
        for number in (
            torch.nonzero((label_B != NO_LABEL) & (weights_of(few, label_B) > 0)).flatten().tolist()
        ):
            for what, classes_B in (("is", label_B), ("taken for", taken_B)):
                shown.append(Sample(f"{number} {what}", "text", classes_B[number : number + 1].cpu().numpy()))
        return shown


class _MayLackLabels(Supervised):
    """Several labels of a sample, of which some may be missing."""

    def __init__(self, config: FamilyConfig, objective: ObjectiveConfig) -> None:
        super().__init__(config, objective)
        self._may_lack = objective.takes_missing_labels

    @property
    def units_per_sample(self) -> int | None:
        """Labels of one sample, unless some may be missing."""
        return None if self._may_lack else self._outputs

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Labels of samples that are not padding."""
        return self._targets(batch)[1].sum()

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Labels (B, O), 0 where there is none, and what each counts (B, O)."""
        label_BO = batch["label"].float().reshape(-1, self._outputs)
        weight_BO = weights_of(batch, label_BO)[:, None].expand_as(label_BO)
        if not self._may_lack:
            return label_BO, weight_BO
        missing_BO = label_BO.isnan()
        return label_BO.masked_fill(missing_BO, 0.0), weight_BO.masked_fill(missing_BO, 0.0)


class Regression(_MayLackLabels):
    """Mean squared error over all numbers to predict, or over those that are there."""

    def __init__(self, config: FamilyConfig, objective: RegressionConfig) -> None:
        super().__init__(config, objective)
        self._asked = objective.metrics

    def label(self) -> TensorSpec:
        """A number or several."""
        return TensorSpec((self._outputs,) if self._outputs > 1 else (), "float")

    def statistics(self, predicted: Tensor, batch: Batch) -> Statistics:
        """Of numbers."""
        return of_numbers(self._asked, predicted, *self._targets(batch))

    def sums(self, predicted: Tensor, batch: Batch) -> Sums:
        """Unit: number to predict."""
        label_BO, weight_BO = self._targets(batch)
        error_BO = predicted - label_BO
        squared = (error_BO.square() * weight_BO).sum()
        absolute = (error_BO.detach().abs() * weight_BO).sum()
        count = weight_BO.sum()
        return Sums(squared, count, {"mse": (squared.detach(), count), "mae": (absolute, count)})


class YesNo(_MayLackLabels):
    """Logistic loss of one yes-or-no label (``binary``) or of several (``multilabel``), or of those that are there."""

    def __init__(self, config: FamilyConfig, objective: BinaryConfig | MultilabelConfig) -> None:
        super().__init__(config, objective)
        self._positive_weight, self._gamma = objective.positive_weight, objective.focal_gamma
        self._asked = objective.metrics

    def label(self) -> TensorSpec:
        """0 or 1, once or several times; where some may be missing a number, since these are NaN."""
        shape = (self._outputs,) if self._outputs > 1 else ()
        return TensorSpec(shape, "float") if self._may_lack else TensorSpec(shape, "int", below=2)

    def statistics(self, predicted: Tensor, batch: Batch) -> Statistics:
        """Of labels."""
        return of_labels(self._asked, predicted, *self._targets(batch))

    def sums(self, predicted: Tensor, batch: Batch) -> Sums:
        """Unit: label."""
        logits_BO = predicted
        label_BO, weight_BO = self._targets(batch)
        positive: Any = torch.full((), self._positive_weight, device=logits_BO.device)
        loss_BO = F.binary_cross_entropy_with_logits(
            logits_BO, label_BO, reduction="none", pos_weight=positive
        )
        if self._gamma:
            wrong_BO = torch.where(label_BO > 0.5, -logits_BO, logits_BO).sigmoid()
            loss_BO = loss_BO * wrong_BO**self._gamma
        right_BO = (logits_BO.detach() > 0) == (label_BO > 0.5)
        count, right = weight_BO.sum(), (right_BO * weight_BO).sum()
        return Sums((loss_BO * weight_BO).sum(), count, {"accuracy": (right, count)})


class TokenClassification(OfClasses):
    """One class for each real token that has a label."""

    def label(self) -> TensorSpec:
        """A class for each token, or none."""
        return TensorSpec((None,), "int", below=self._outputs, ignored=NO_LABEL)

    @property
    def units_per_sample(self) -> int | None:
        """Samples differ in how many labels they have."""
        return None

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Tokens that have a label, as their classes weigh."""
        label_BT = _real_labels(batch)
        return (self._unit_weights(label_BT).sum(1) * weights_of(batch, label_BT)).sum()

    def sums(self, predicted: Tensor, batch: Batch) -> Sums:
        """Unit: labeled token."""
        label_BT = _real_labels(batch)
        weight_B = weights_of(batch, label_BT)
        loss_BT = self._loss(predicted.flatten(0, 1), label_BT.flatten()).reshape(label_BT.shape)
        labeled = ((label_BT != NO_LABEL).sum(1) * weight_B).sum()
        right = ((predicted.argmax(-1) == label_BT).sum(1) * weight_B).sum()
        return Sums(
            (loss_BT.sum(1) * weight_B).sum(), self.units("model", batch), {"accuracy": (right, labeled)}
        )

    def statistics(self, predicted: Tensor, batch: Batch) -> Statistics:
        """Of the classes of tokens that have one."""
        label_BT = _real_labels(batch)
        weight_BT = weights_of(batch, label_BT)[:, None] * (label_BT != NO_LABEL)
        label_N = label_BT.flatten().clamp(min=0)
        return of_classes(self._asked, self._top_k, predicted.flatten(0, 1), label_N, weight_BT.flatten())


def _real_labels(batch: Batch) -> Tensor:
    """Labels (B, T): none of what fills a sequence up, whatever stands there."""
    label_BT = batch["label"].long()
    if "length" not in batch:
        return label_BT
    position_T = torch.arange(label_BT.shape[1], device=label_BT.device)
    return label_BT.masked_fill(position_T >= batch["length"][:, None], NO_LABEL)
