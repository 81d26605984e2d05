"""Residual convolutional network (He et al. 2015, arXiv:1512.03385) for images, and for signals in one dimension.

GroupNorm (Wu and He 2018, arXiv:1803.08494) is the default: unlike BatchNorm it gives each sample the same
result whatever batch, and so whatever worker, it lands on. Optional squeeze-excitation (Hu et al. 2017,
arXiv:1709.01507).

Shapes: B samples, C channels, H height, W width, L length; ``x_BC_`` has H and W, or L.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.base import Modules
from orchestrator.models.configs import CnnConfig, ObjectiveConfig

CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}
BATCH_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
CHANNELS_PER_GROUP = 16


def convolution(
    config: CnnConfig, channels_in: int, channels_out: int, kernel: int, stride: int = 1
) -> nn.Module:
    """A convolution that keeps the size, divided by ``stride``; the norm behind it has the bias."""
    return CONVOLUTIONS[config.dimensions](
        channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False
    )


def norm(config: CnnConfig, channels: int) -> nn.Module:
    """GroupNorm with groups of about 16 channels, or BatchNorm."""
    if config.norm == "batch":
        return BATCH_NORMS[config.dimensions](channels)
    groups = max(1, channels // CHANNELS_PER_GROUP)
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


class SqueezeExcitation(nn.Module):
    """Weighs channels by a small network of their means."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        squeezed = max(4, channels // reduction)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x_BC_: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        mean_BC = x_BC_.flatten(2).mean(2)
        weight_BC = torch.sigmoid(self.excite(F.relu(self.squeeze(mean_BC))))
        return x_BC_ * weight_BC.reshape(*weight_BC.shape, *[1] * (x_BC_.dim() - 2))


class ResidualBlock(nn.Module):
    """Convolutions beside a shortcut: two 3x3 (basic) or 1x1, 3x3, 1x1 (bottleneck)."""

    def __init__(self, config: CnnConfig, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * expansion(config)
        if config.block == "basic":
            shapes = [(channels_in, width, 3, stride), (width, width, 3, 1)]
        else:
            shapes = [(channels_in, width, 1, 1), (width, width, 3, stride), (width, channels_out, 1, 1)]
        self.convolutions = nn.ModuleList(convolution(config, *shape) for shape in shapes)
        self.norms = nn.ModuleList(norm(config, shape[1]) for shape in shapes)
        # Each block starts as its shortcut (Goyal et al. 2017, arXiv:1706.02677).
        last_weight, _ = self.norms[-1].parameters()
        nn.init.zeros_(last_weight)
        self.excitation = SqueezeExcitation(channels_out) if config.squeeze_excitation else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                convolution(config, channels_in, channels_out, 1, stride), norm(config, channels_out)
            )

    def forward(self, x_BC_: Tensor) -> Tensor:
        """(B, channels_in, ...) -> (B, channels_out, ...), each side divided by the stride."""
        y_BC_ = x_BC_
        last = len(self.convolutions) - 1
        for index, (convolve, normalize) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            y_BC_ = normalize(convolve(y_BC_))
            if index != last:
                y_BC_ = F.relu(y_BC_)
        return F.relu(self.excitation(y_BC_) + self.shortcut(x_BC_))


def expansion(config: CnnConfig) -> int:
    """Channels out of a block for each of its width."""
    return 4 if config.block == "bottleneck" else 1


class Stem(nn.Module):
    """The first convolution, with a max-pool for large images."""

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        assert config.in_channels is not None
        large = config.stem == "imagenet"
        self.convolution = convolution(
            config, config.in_channels, config.width, 7 if large else 3, 2 if large else 1
        )
        self.norm = norm(config, config.width)
        self.pool: nn.Module = nn.Identity()
        if large:
            self.pool = (nn.MaxPool2d if config.dimensions == 2 else nn.MaxPool1d)(3, stride=2, padding=1)

    def forward(self, x_BC_: Tensor) -> Tensor:
        """(B, in_channels, ...) -> (B, width, ...)."""
        y_BC_: Tensor = self.pool(F.relu(self.norm(self.convolution(x_BC_))))
        return y_BC_


class Cnn(nn.Module):
    """Stem, stages of residual blocks, mean over the positions, and one linear layer."""

    block_classes: tuple[type[nn.Module], ...] = (ResidualBlock,)

    def __init__(self, config: CnnConfig, outputs: int) -> None:
        super().__init__()
        self.stem = Stem(config)
        stages: list[nn.Module] = []
        channels = config.width
        for stage, count in enumerate(config.stage_blocks):
            width = config.width * 2**stage
            for index in range(count):
                stages.append(ResidualBlock(config, channels, width, stride=2 if stage and index == 0 else 1))
                channels = width * expansion(config)
        self.residual_blocks = nn.ModuleList(stages)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(channels, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BC_: Tensor) -> Tensor:
        """Images (B, C, H, W) or signals (B, C, L) -> outputs (B, O)."""
        x_BC_ = self.stem(x_BC_)
        for block in self.residual_blocks:
            x_BC_ = block(x_BC_)
        y_BO: Tensor = self.head(self.dropout(x_BC_.flatten(2).mean(2)))
        return y_BO


def build(config: CnnConfig, objective: ObjectiveConfig) -> Modules:
    """The network, with one output for a yes-or-no label."""
    return {"model": Cnn(config, outputs=config.outputs_for(objective))}
