"""Halving and doubling of images by strided convolutions, after DCGAN (Radford et al. 2015, arXiv:1511.06434).

GroupNorm stands where DCGAN has BatchNorm: each sample is then the same whatever batch it is in.

Shapes: B samples, C channels, H height, W width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 4
"""Least height that an image is halved to."""


def halvings(image_size: int) -> int:
    """How often an image can be halved with at least ``SMALLEST`` left."""
    count = 0
    while image_size % 2 == 0 and image_size // 2 >= SMALLEST:
        image_size, count = image_size // 2, count + 1
    return count


def group_norm(channels: int) -> nn.GroupNorm:
    """Eight groups, or as many as divide the channels."""
    groups = 8
    while channels % groups:
        groups //= 2
    return nn.GroupNorm(groups, channels)


class Down(nn.Module):
    """Half the height and width."""

    def __init__(self, channels_in: int, channels_out: int, *, normalized: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1)
        self.norm: nn.Module = group_norm(channels_out) if normalized else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels_out, H/2, W/2)."""
        return F.leaky_relu(self.norm(self.convolution(x_BCHW)), 0.2)


class Up(nn.Module):
    """Twice the height and width."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolution = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
        self.norm = group_norm(channels_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, channels_out, 2H, 2W)."""
        return F.relu(self.norm(self.convolution(x_BCHW)))


class ToNumbers(nn.Module):
    """Image to some numbers: a convolution, halvings that double the channels, and a linear layer."""

    def __init__(
        self, channels: int, image_size: int, width: int, numbers: int, *, normalized: bool = True
    ) -> None:
        super().__init__()
        count = halvings(image_size)
        side, top = image_size >> count, width << count
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.halves = nn.ModuleList(
            Down(width << i, width << (i + 1), normalized=normalized) for i in range(count)
        )
        self.last = nn.Linear(top * side * side, numbers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, numbers)."""
        x_BCHW = F.leaky_relu(self.first(x_BCHW), 0.2)
        for half in self.halves:
            x_BCHW = half(x_BCHW)
        y_BN: Tensor = self.last(x_BCHW.flatten(1))
        return y_BN


class FromNumbers(nn.Module):
    """Some numbers to an image: the mirror of ``ToNumbers``."""

    def __init__(self, channels: int, image_size: int, width: int, numbers: int) -> None:
        super().__init__()
        count = halvings(image_size)
        side, top = image_size >> count, width << count
        self.first = nn.Linear(numbers, top * side * side)
        self.shape = (top, side, side)
        self.norm = group_norm(top)
        self.doubles = nn.ModuleList(Up(width << (i + 1), width << i) for i in reversed(range(count)))
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x_BN: Tensor) -> Tensor:
        """(B, numbers) -> (B, C, H, W)."""
        x_BCHW = F.relu(self.norm(self.first(x_BN).unflatten(1, self.shape)))
        for double in self.doubles:
            x_BCHW = double(x_BCHW)
        y_BCHW: Tensor = self.last(x_BCHW)
        return y_BCHW
