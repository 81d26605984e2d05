"""A network for Connect Four with two heads, how good each move is and who will win, and the objective of both."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.base import Batch, Sums, TensorSpec, weights_of
from orchestrator.models.objectives.common import OnePhase

COLUMNS, ROWS = 7, 6


class Residual(nn.Module):
    """Two 3 x 3 convolutions added to what came in (He et al. 2015, arXiv:1512.03385)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = (
            nn.Sequential(nn.GroupNorm(8, width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(2)
        )
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, 6, 7) -> the same shape."""
        out: Tensor = x + self.layers(x)
        return out


class PolicyAndValue(nn.Module):
    """Convolutions over the board, and a linear layer to seven moves' logits and the outcome in -1..1."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(depth)))
        self.narrow = nn.Conv2d(width, 16, 1)
        self.heads = nn.Linear(16 * ROWS * COLUMNS, COLUMNS + 1)

    def forward(self, board: Tensor) -> Tensor:
        """The tensor ``board`` of the batch, (B, 84) -> (B, 8): seven logits, and the outcome."""
        found = self.blocks(self.stem(board.view(-1, 2, ROWS, COLUMNS)))
        out: Tensor = self.heads(torch.relu(self.narrow(found)).flatten(1))
        return torch.cat([out[:, :COLUMNS], out[:, COLUMNS:].tanh()], dim=1)


class PlaysWell(OnePhase):
    """Cross-entropy of the moves with those that are best, and squared error of the outcome (Silver et al. 2017)."""

    units_per_sample = 1

    def inputs(self) -> dict[str, TensorSpec]:
        """What the pipeline in ``connect_four.py`` makes."""
        return {
            "board": TensorSpec((2 * ROWS * COLUMNS,), "float"),
            "moves": TensorSpec((COLUMNS,), "float"),
            "outcome": TensorSpec((), "float"),
        }

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Positions."""
        return weights_of(batch, batch["board"]).sum()

    def loss(self, phase: str, modules: dict[str, nn.Module], batch: Batch) -> Sums:
        """Sums over positions."""
        weight = weights_of(batch, batch["board"])
        out = modules["model"](batch["board"]).float()
        logits, outcome = out[:, :COLUMNS], out[:, COLUMNS]
        policy = F.cross_entropy(logits, batch["moves"], reduction="none")
        value = (outcome - batch["outcome"]) ** 2
        is_best = batch["moves"].gather(1, logits.argmax(1, keepdim=True))[:, 0] > 0
        metrics = {"best_move": is_best.float(), "outcome_error": value.detach()}
        return Sums(
            ((policy + value) * weight).sum(),
            weight.sum(),
            {name: ((found * weight).sum(), weight.sum()) for name, found in metrics.items()},
        )


def build(width: int = 32, depth: int = 3) -> nn.Module:
    """Called with ``model.config`` on the planning machine and on every worker."""
    return PolicyAndValue(width, depth)
