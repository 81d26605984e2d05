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
    def evaluate(
        self, modules: Mapping[str, nn.Module], batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """The training loss and its metrics."""
        sums = self.loss("model", modules, batch)
        return {"loss": (sums.loss, sums.count), **sums.metrics}


def forward(model: nn.Module, tensors: Mapping[str, Tensor | None], *, by_name: bool) -> Tensor:
    """What the model makes of its inputs, given by name or in their order; None stands for one that the batch lacks."""
    if by_name:
        out: Tensor = model(**{name: tensor for name, tensor in tensors.items() if tensor is not None})
    else:
        out = model(*tensors.values())
    return out
