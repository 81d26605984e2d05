"""A model of one's own: convolutions find strokes in a scan's rows, an LSTM reads the rows from top to bottom."""

import torch
from torch import Tensor, nn


class Convolution(nn.Module):
    """3 x 3 convolution, normalization and rectifier, added to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU())

    def forward(self, x_BWHL: Tensor) -> Tensor:
        """(B, W, H, L) -> the same shape."""
        return x_BWHL + self.layers(x_BWHL)


class CnnLstm(nn.Module):
    """Convolutions, an LSTM over the rows, and one linear layer to the classes."""

    def __init__(self, width: int, depth: int, state: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.convolutions = nn.Sequential(*(Convolution(width) for _ in range(depth)))
        self.rows = nn.LSTM(8 * width, state, batch_first=True)
        self.head = nn.Linear(state, classes)

    def forward(self, image: Tensor) -> Tensor:
        """The tensor ``image`` of the batch, (samples, 1, 8, 8) -> (samples, classes)."""
        found = self.convolutions(torch.relu(self.stem(image)))
        read, _ = self.rows(found.permute(0, 2, 1, 3).flatten(2))
        out: Tensor = self.head(read[:, -1])
        return out


def build(width: int = 32, depth: int = 2, state: int = 64, classes: int = 10) -> nn.Module:
    """Called with ``model.config`` on the planning machine and on every worker."""
    return CnnLstm(width, depth, state, classes)
