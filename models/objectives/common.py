"""What the objectives share: one phase, one module, nothing after the step, nothing to look at."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orchestrator.models.base import Batch, Sample, Sums


class OnePhase:
    """Objectives that train the one module ``model``."""

    phases: tuple[str, ...] = ("model",)

    def trains(self, phase: str) -> str:
        """The phase is called after its module."""
        return phase

    def after_step(self, phase: str, modules: Mapping[str, nn.Module]) -> None:
        """There is no average to move."""

    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[Sample]:
        """Nothing is generated."""
        return []

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """See ``Objective.loss``."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(self, modules: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The training loss and its metrics."""
        sums = self.loss("model", modules, batch)
        return {"loss": (sums.loss, sums.count), **sums.metrics}


def model_inputs(batch: Batch, names: tuple[str, ...]) -> list[Tensor | None]:
    """The tensors of the model's forward in order; None for an optional one that the batch lacks."""
    return [batch.get(name) for name in names]
