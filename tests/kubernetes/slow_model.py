"""A model whose saves take a moment, and whose evaluations some seconds: the code of a job that is cut off in the midst."""

from __future__ import annotations

import time

import torch
from torch import nn


class Slow(nn.Module):
    """Digits -> classes, by a wide layer.

    Args:
        width: Its neurons; 75 parameters each.
        seconds: What a batch of an evaluation takes.
    """

    def __init__(self, width: int, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if not self.training:
            time.sleep(self.seconds)
        return self.layers(image)
