"""Generative adversarial network (Goodfellow et al. 2014, arXiv:1406.2661): a generator makes images from noise, a
discriminator scores how real they are. Convolutions after DCGAN (Radford et al. 2015, arXiv:1511.06434), or fully
connected layers; spectral normalization (Miyato et al. 2018, arXiv:1802.05957) on request.

Shapes: B samples, N noise, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from orchestrator.models.averages import as_average
from orchestrator.models.base import Modules
from orchestrator.models.configs import GanConfig, ObjectiveConfig
from orchestrator.models.images import Down, FromNumbers, ToNumbers, Up

MLP_WIDTH = 8
"""Units of a fully connected layer for each of the config's ``width``."""


class Generator(nn.Module):
    """Noise to images."""

    block_classes: tuple[type[nn.Module], ...] = (Up,)

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        assert config.channels is not None
        assert config.image_size is not None
        self.image_shape = (config.channels, config.image_size, config.image_size)
        self.bounded = config.bounded
        if config.layers == "convolution":
            self.layers: nn.Module = FromNumbers(
                config.channels, config.image_size, config.width, config.noise
            )
        else:
            units, pixels = MLP_WIDTH * config.width, config.channels * config.image_size**2
            self.layers = nn.Sequential(
                nn.Linear(config.noise, units), nn.ReLU(),
                nn.Linear(units, units), nn.ReLU(),
                nn.Linear(units, pixels),
            )  # fmt: skip

    def forward(self, noise_BN: Tensor) -> Tensor:
        """(B, N) -> (B, C, H, W)."""
        image_BCHW = self.layers(noise_BN).reshape(-1, *self.image_shape)
        return torch.tanh(image_BCHW) if self.bounded else image_BCHW


class Discriminator(nn.Module):
    """Images to one score each: above 0 is real."""

    block_classes: tuple[type[nn.Module], ...] = (Down,)

    def __init__(self, config: GanConfig) -> None:
        super().__init__()
        assert config.channels is not None
        assert config.image_size is not None
        if config.layers == "convolution":
            self.layers: nn.Module = ToNumbers(
                config.channels, config.image_size, config.width, 1, normalized=not config.spectral_norm
            )
        else:
            units, pixels = MLP_WIDTH * config.width, config.channels * config.image_size**2
            self.layers = nn.Sequential(
                nn.Flatten(),
                nn.Linear(pixels, units), nn.LeakyReLU(0.2),
                nn.Linear(units, units), nn.LeakyReLU(0.2),
                nn.Linear(units, 1),
            )  # fmt: skip
        if config.spectral_norm:
            for module in list(self.modules()):
                if isinstance(module, nn.Linear | nn.Conv2d):
                    parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> scores (B,)."""
        score_B: Tensor = self.layers(image_BCHW).squeeze(1)
        return score_B


class SpectralNorm(nn.Module):
    """A weight divided by its largest singular value, which power iteration follows.

    torch's own iterates in each forward, so that its result depends on how many micro-batches a step has; this one
    iterates when ``iterate`` is called, once after each step of the optimizer.
    """

    def __init__(self, weight: Tensor, first_iterations: int = 15) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.register_buffer("left", F.normalize(torch.randn(rows), dim=0))
        self.register_buffer("right", F.normalize(torch.randn(columns), dim=0))
        self.iterate(weight.detach(), first_iterations)

    @torch.no_grad()
    def iterate(self, weight: Tensor, iterations: int = 1) -> None:
        """Follow a weight that has changed."""
        matrix = weight.flatten(1).float()
        left, right = self.get_buffer("left"), self.get_buffer("right")
        for _ in range(iterations):
            left.copy_(F.normalize(matrix @ right, dim=0))
            right.copy_(F.normalize(left @ matrix, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with largest singular value 1. That value is measured in float32: autocast, which would make products
        of matrices coarser, leaves those of elements alone.
        """
        along_right = (weight.flatten(1).float() * self.get_buffer("right")).sum(1)
        return weight / (self.get_buffer("left") * along_right).sum()


def iterate_spectral_norms(module: nn.Module) -> None:
    """Follow all weights of a module once its optimizer has stepped. Collective where weights are sharded."""
    for child in module.modules():
        if isinstance(child, parametrize.ParametrizationList) and isinstance(child[0], SpectralNorm):
            weight = child.original
            child[0].iterate(weight.full_tensor() if hasattr(weight, "full_tensor") else weight)


def build(config: GanConfig, objective: ObjectiveConfig) -> Modules:
    """Generator, discriminator, and the generator's moving average, with which samples are made."""
    generator = Generator(config)
    return {
        "discriminator": Discriminator(config),
        "generator": generator,
        "generator_ema": as_average(Generator(config), generator, of="generator"),
    }
