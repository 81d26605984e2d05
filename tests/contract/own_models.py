"""Models and an objective as a person writes them, beside their job file. Importable by ranks."""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.averages import as_average
from orchestrator.models.base import Batch, Sums, TensorSpec, normal_from, weights_of


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Tagger(nn.Module):
    """Its blocks are called ``blocks``, as people do."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Linear(5, width)
        self.blocks = nn.ModuleList(Layer(width) for _ in range(3))
        self.head = nn.Linear(width, outputs)

    def forward(self, features: Tensor) -> Tensor:
        x = self.stem(features)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x)
        return out


def build_tagger(width: int = 8, outputs: int = 3) -> nn.Module:
    return Tagger(width, outputs)


def build_by_value(width: int = 8) -> nn.Module:
    model = Tagger(width, 3)
    model.stem.weight.data *= 1 / model.stem.weight.abs().max().item()  # needs the numbers
    return model


def build_random() -> nn.Module:
    return Tagger(random.randint(4, 4000), 3)


def build_nothing() -> str:
    return "a model"


def build_scalar() -> nn.Module:
    model = Tagger(8, 3)
    model.scale = nn.Parameter(torch.ones(()))
    return model


def build_lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3))


class Narrow(Tagger):
    def __init__(self) -> None:
        super().__init__(8, 3)
        self.head = nn.Linear(7, 3)


def build_gan(width: int = 8) -> dict[str, nn.Module]:
    return {
        "discriminator": nn.Sequential(nn.Linear(5, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)),
        "generator": nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 5)),
    }


def build_averaging_gan() -> dict[str, nn.Module]:
    modules = build_gan()
    modules["average"] = as_average(build_gan()["generator"], modules["generator"], of="generator")
    return modules


class Gan:
    phases = ("discriminator", "generator")
    units_per_sample = 1

    def trains(self, phase: str) -> str:
        return phase

    def inputs(self) -> Mapping[str, TensorSpec]:
        return {"features": TensorSpec((5,), "float")}

    def units(self, phase: str, batch: Batch) -> Tensor:
        return weights_of(batch, batch["features"]).sum()

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        real, weight = batch["features"], weights_of(batch, batch["features"])
        noise = normal_from(batch["sample_seed"], (4,), salt=self.phases.index(phase))
        if phase == "generator":
            loss = F.softplus(-modules["discriminator"](modules["generator"](noise))[:, 0])
        else:
            with torch.no_grad():
                made = modules["generator"](noise)
            real_score, made_score = modules["discriminator"](torch.cat([real, made]))[:, 0].chunk(2)
            loss = F.softplus(-real_score) + F.softplus(made_score)
        return Sums((loss * weight).sum(), weight.sum(), {})

    @torch.no_grad()
    def evaluate(self, modules: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, tuple[Tensor, Tensor]]:
        first, second = (self.loss(phase, modules, batch) for phase in self.phases)
        return {"loss": (first.loss, first.count), "loss_generator": (second.loss, second.count)}

    def after_step(self, phase: str, modules: Mapping[str, nn.Module]) -> None:
        pass

    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[object]:
        return []
