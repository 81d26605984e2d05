"""Multilayer perceptron for tables of numbers and categories.

Categorical columns are embedded (Guo and Berkhahn 2016, arXiv:1604.06737) and joined to the numbers; hidden
layers may be residual and normalized (Gorishniy et al. 2021, arXiv:2106.11959).

Shapes: B samples, F features, C categorical columns, E embedding width, W width, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.models.base import Modules
from orchestrator.models.configs import MlpConfig, ObjectiveConfig

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class HiddenLayer(nn.Module):
    """Linear, norm, non-linearity and dropout; adds its input where it is residual."""

    def __init__(self, in_width: int, config: MlpConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(in_width, config.width)
        self.norm = nn.LayerNorm(config.width) if config.norm == "layer" else nn.Identity()
        self.activation = ACTIVATIONS[config.activation]()
        self.dropout = nn.Dropout(config.dropout)
        self.residual = config.residual and in_width == config.width

    def forward(self, x_BW: Tensor) -> Tensor:
        """(B, in_width) -> (B, W)."""
        y_BW: Tensor = self.dropout(self.activation(self.norm(self.linear(x_BW))))
        return x_BW + y_BW if self.residual else y_BW


class Mlp(nn.Module):
    """Embeddings of categories, hidden layers, and one linear layer to the outputs."""

    block_classes: tuple[type[nn.Module], ...] = (HiddenLayer,)

    def __init__(self, config: MlpConfig, outputs: int) -> None:
        super().__init__()
        assert config.in_features is not None
        cardinalities = config.cardinalities or ()
        self.embeddings = nn.ModuleList(
            nn.Embedding(values, config.embedding_width) for values in cardinalities
        )
        joined = config.in_features + len(cardinalities) * config.embedding_width
        widths = [joined] + [config.width] * (config.depth - 1)
        self.layers = nn.ModuleList(HiddenLayer(width, config) for width in widths)
        self.head = nn.Linear(config.width, outputs)

    def forward(self, features_BF: Tensor, categories_BC: Tensor | None = None) -> Tensor:
        """Numbers (B, F) and category numbers (B, C) -> outputs (B, O)."""
        embedded = [] if categories_BC is None else self.embedded(categories_BC)
        return self.outputs([features_BF, *embedded])

    def embedded(self, categories_BC: Tensor) -> list[Tensor]:
        """Category numbers (B, C) -> what stands for each column's, (B, E)."""
        return [table(categories_BC[:, column]) for column, table in enumerate(self.embeddings)]

    def outputs(self, parts: list[Tensor]) -> Tensor:
        """The parts of a sample, side by side, through all layers -> (B, O)."""
        x_BW = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        for layer in self.layers:
            x_BW = layer(x_BW)
        y_BO: Tensor = self.head(x_BW)
        return y_BO


class CategoriesMlp(Mlp):
    """The same for samples without numbers, such as who and what of a recommendation (He et al. 2017,
    arXiv:1708.05031).
    """

    def forward(self, categories_BC: Tensor) -> Tensor:  # type: ignore[override]
        """Category numbers (B, C) -> outputs (B, O)."""
        return self.outputs(self.embedded(categories_BC))


def build(config: MlpConfig, objective: ObjectiveConfig) -> Modules:
    """The network, with one output for a yes-or-no label."""
    kind = CategoriesMlp if config.in_features == 0 else Mlp
    return {"model": kind(config, outputs=config.outputs_for(objective))}
