"""What came in must come back.

Shapes: B samples, Z latent numbers; ``x_B_`` is (B, F) or (B, C, H, W); D numbers of one sample.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orchestrator.models.base import Batch, Sample, Sums, TensorSpec, normal_from, weights_of
from orchestrator.models.configs import AutoencoderConfig, ReconstructionConfig
from orchestrator.models.objectives.common import OnePhase
from orchestrator.models.objectives.pictures import grid


class Reconstruction(OnePhase):
    """Squared error and, with a variational encoder, beta times the KL divergence to a standard normal.

    Unit: number, so the mean loss is mse + beta * KL / D: the sum over a sample, divided by its D numbers.
    """

    def __init__(self, config: AutoencoderConfig, objective: ReconstructionConfig) -> None:
        self._tensors = config.input_tensors(objective)
        ((self._name, spec),) = self._tensors.items()
        self._numbers = 1
        for size in spec.shape:
            assert size is not None
            self._numbers *= size
        self._latent = config.latent
        self._variational = config.variational
        self._beta, self._noise = objective.beta, objective.noise

    def inputs(self) -> Mapping[str, TensorSpec]:
        """The family's input."""
        return self._tensors

    @property
    def units_per_sample(self) -> int | None:
        """Numbers of one sample."""
        return self._numbers

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Numbers that are not padding."""
        return weights_of(batch, batch[self._name]).sum() * self._numbers

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """See ``Objective.loss``."""
        x_B_, seed_B = batch[self._name].float(), batch["sample_seed"]
        given_B_ = x_B_
        if self._noise:
            given_B_ = x_B_ + self._noise * normal_from(seed_B, tuple(x_B_.shape[1:]), salt=7)
        noise_BZ = normal_from(seed_B, (self._latent,), salt=8) if self._variational else None
        return self._sums(modules, given_B_, x_B_, noise_BZ, weights_of(batch, x_B_))

    @torch.no_grad()
    def evaluate(self, modules: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        """The loss without noise."""
        x_B_ = batch[self._name].float()
        sums = self._sums(modules, x_B_, x_B_, None, weights_of(batch, x_B_))
        return {"loss": (sums.loss, sums.count), **sums.metrics}

    def _sums(
        self,
        modules: Mapping[str, nn.Module],
        given_B_: Tensor,
        x_B_: Tensor,
        noise_BZ: Tensor | None,
        weight_B: Tensor,
    ) -> Sums:
        back_B_, mean_BZ, log_variance_BZ = modules["model"](given_B_, noise_BZ)
        squared = ((back_B_.float() - x_B_).square().flatten(1).sum(1) * weight_B).sum()
        samples = weight_B.sum()
        count = samples * self._numbers
        metrics = {"mse": (squared.detach(), count)}
        if log_variance_BZ is None:
            return Sums(squared, count, metrics)
        mean_BZ, log_variance_BZ = mean_BZ.float(), log_variance_BZ.float()
        divergence_B = 0.5 * (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(1)
        divergence = (divergence_B * weight_B).sum()
        return Sums(
            squared + self._beta * divergence, count, {**metrics, "kl": (divergence.detach(), samples)}
        )

    @torch.no_grad()
    def scores(self, modules: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        """Each sample's anomaly score (B,): the mean squared error of what comes back."""
        x_B_ = batch[self._name].float()
        back_B_, _, _ = modules["model"](x_B_)
        return (back_B_.float() - x_B_).square().flatten(1).mean(1)

    @torch.no_grad()
    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[Sample]:
        """Images and below them what comes back; numbers as two lines."""
        x_B_ = batch[self._name][:count].float()
        back_B_ = modules["model"](x_B_)[0].float()
        if x_B_.dim() == 4:
            low, high = x_B_.amin(), x_B_.amax()
            both_BCHW = (torch.cat([x_B_, back_B_]) - low) / (high - low).clamp(min=1e-6)
            return [Sample("reconstruction", "image", grid(both_BCHW, columns=len(x_B_)))]
        both_B2F = torch.stack([x_B_, back_B_], dim=1).cpu().numpy()
        return [
            Sample(f"reconstruction_{index}", "series", both, ("original", "reconstruction"))
            for index, both in enumerate(both_B2F)
        ]
