"""Generator against discriminator, in two phases of each step.

Shapes: B samples, N noise, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.averages import move_average
from orchestrator.models.base import Batch, Sample, Sums, TensorSpec, normal_from, uniform_from, weights_of
from orchestrator.models.configs import AdversarialConfig, GanConfig
from orchestrator.models.gan import iterate_spectral_norms
from orchestrator.models.objectives.pictures import grid

_NOISE_SALT = {"discriminator": 9, "generator": 10}
_BETWEEN_SALT = 11
_SAMPLE_SALT = 12


class Adversarial:
    """First the discriminator learns to tell real images from made ones, then the generator to pass. Unit: sample."""

    phases = AdversarialConfig.PHASES

    def __init__(self, config: GanConfig, objective: AdversarialConfig) -> None:
        self._tensors = config.input_tensors(objective)
        self._noise, self._bounded, self._spectral = config.noise, config.bounded, config.spectral_norm
        self._kind, self._penalty, self._decay = (
            objective.loss,
            objective.gradient_penalty,
            objective.ema_decay,
        )

    def trains(self, phase: str) -> str:
        """The phase is called after its module."""
        return phase

    def inputs(self) -> Mapping[str, TensorSpec]:
        """Real images."""
        return self._tensors

    @property
    def units_per_sample(self) -> int | None:
        """One unit a sample."""
        return 1

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Samples that are not padding."""
        return weights_of(batch, batch["image"]).sum()

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """See ``Objective.loss``."""
        real_BCHW = batch["image"].float()
        weight_B = weights_of(batch, real_BCHW)
        noise_BN = normal_from(batch["sample_seed"], (self._noise,), salt=_NOISE_SALT[phase])
        if phase == "generator":
            score_B = modules["discriminator"](modules["generator"](noise_BN)).float()
            loss_B = self._generator_loss(score_B)
            metrics_B: dict[str, Tensor] = {}
        else:
            with torch.no_grad():
                made_BCHW = modules["generator"](noise_BN).float()
            loss_B, metrics_B = self._discriminator_loss(
                modules["discriminator"], real_BCHW, made_BCHW, batch
            )
        count = weight_B.sum()
        metrics = {name: ((value_B.detach() * weight_B).sum(), count) for name, value_B in metrics_B.items()}
        return Sums((loss_B * weight_B).sum(), count, metrics)

    def _generator_loss(self, score_B: Tensor) -> Tensor:
        return F.softplus(-score_B) if self._kind == "non_saturating" else -score_B

    def _discriminator_loss(
        self, discriminator: nn.Module, real_BCHW: Tensor, made_BCHW: Tensor, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Each sample's loss (B,) and metrics (B,). All images go through one forward: wrappers count forwards."""
        images = [real_BCHW, made_BCHW]
        between_BCHW = None
        if self._penalty and torch.is_grad_enabled():
            share_B111 = uniform_from(batch["sample_seed"], (1, 1, 1), salt=_BETWEEN_SALT)
            between_BCHW = real_BCHW.lerp(made_BCHW, share_B111).requires_grad_()
            images.append(between_BCHW)
        scores = discriminator(torch.cat(images)).float().chunk(len(images))
        real_B, made_B = scores[:2]
        if self._kind == "non_saturating":
            loss_B = F.softplus(-real_B) + F.softplus(made_B)
        elif self._kind == "hinge":
            loss_B = F.relu(1 - real_B) + F.relu(1 + made_B)
        else:
            loss_B = made_B - real_B
        metrics = {"score_real": real_B, "score_made": made_B}
        if between_BCHW is not None:
            (gradient_BCHW,) = torch.autograd.grad(scores[2].sum(), between_BCHW, create_graph=True)
            penalty_B = (gradient_BCHW.flatten(1).norm(dim=1) - 1).square()
            metrics["gradient_penalty"] = penalty_B
            loss_B = loss_B + self._penalty * penalty_B
        return loss_B, metrics

    @torch.no_grad()
    def evaluate(self, modules: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Both losses on held-out images; ``loss`` is the discriminator's, which says how well the two are told apart."""
        discriminator = self.loss("discriminator", modules, batch)
        generator = self.loss("generator", modules, batch)
        return {
            "loss": (discriminator.loss, discriminator.count),
            "loss_generator": (generator.loss, generator.count),
            **discriminator.metrics,
        }

    def after_step(self, phase: str, modules: Mapping[str, nn.Module]) -> None:
        """Move the generator's average; follow the discriminator's weights."""
        if phase == "generator":
            move_average(modules["generator_ema"], modules["generator"], self._decay)
        elif self._spectral:
            iterate_spectral_norms(modules["discriminator"])

    @torch.no_grad()
    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[Sample]:
        """Images from the averaged generator, in one grid; the same noise each time, so that progress shows."""
        seed_B = torch.arange(count, device=batch["image"].device)
        images_BCHW = modules["generator_ema"](normal_from(seed_B, (self._noise,), salt=_SAMPLE_SALT)).float()
        if self._bounded:
            images_BCHW = (images_BCHW + 1) / 2
        return [Sample("generated", "image", grid(images_BCHW))]
