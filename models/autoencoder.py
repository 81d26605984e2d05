"""Autoencoder (Hinton and Salakhutdinov 2006, Science 313), fully connected or convolutional, and its variational
form (Kingma and Welling 2013, arXiv:1312.6114).

Shapes: B samples, F features, C channels, H height, W width, Z latent numbers; ``x_B_`` is (B, F) or (B, C, H, W).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.models.base import Modules
from orchestrator.models.configs import AutoencoderConfig, ObjectiveConfig
from orchestrator.models.images import Down, FromNumbers, ToNumbers, Up

MLP_WIDTH = 8
"""Units of a fully connected layer for each of the config's ``width``."""


class Autoencoder(nn.Module):
    """Encoder to a few numbers and decoder back."""

    block_classes: tuple[type[nn.Module], ...] = (Down, Up)

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.variational = config.variational
        code = config.latent * (2 if config.variational else 1)
        if config.layers == "mlp":
            assert config.in_features is not None
            units = MLP_WIDTH * config.width
            self.encoder = fully_connected(config.in_features, units, config.depth, code)
            self.decoder = fully_connected(config.latent, units, config.depth, config.in_features)
        else:
            assert config.channels is not None
            assert config.image_size is not None
            self.encoder = ToNumbers(config.channels, config.image_size, config.width, code)
            self.decoder = FromNumbers(config.channels, config.image_size, config.width, config.latent)

    def forward(self, x_B_: Tensor, noise_BZ: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """-> what comes back (B, ...), the code's mean (B, Z) and, if variational, its log variance (B, Z).

        With noise (standard normal) a variational code is drawn, without it is the mean.
        """
        code_BZ, log_variance_BZ = self.encoder(x_B_), None
        if self.variational:
            code_BZ, log_variance_BZ = code_BZ.chunk(2, dim=1)
        mean_BZ = code_BZ
        if log_variance_BZ is not None and noise_BZ is not None:
            code_BZ = mean_BZ + torch.exp(0.5 * log_variance_BZ) * noise_BZ
        return self.decoder(code_BZ), mean_BZ, log_variance_BZ


def fully_connected(width_in: int, width: int, depth: int, width_out: int) -> nn.Module:
    """``depth`` hidden layers with GELU between two widths."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width_in, width), nn.GELU()]
        width_in = width
    return nn.Sequential(*layers, nn.Linear(width_in, width_out))


def build(config: AutoencoderConfig, objective: ObjectiveConfig) -> Modules:
    """The autoencoder."""
    return {"model": Autoencoder(config)}
