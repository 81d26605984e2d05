"""Optimizers and schedules as a person writes them, beside their job file. Importable by ranks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Signs(Optimizer):
    """Signs of a momentum, smaller over time: counts its updates by itself."""

    def __init__(self, groups: Any, decay: float) -> None:
        super().__init__(groups, {"decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"], state["step"] = torch.zeros_like(parameter), 0
                state["step"] += 1
                state["momentum"].mul_(group["decay"]).add_(parameter.grad, alpha=1 - group["decay"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(
                    torch.tanh(100 * state["momentum"]), alpha=-group["lr"] / math.sqrt(state["step"])
                )


class Whitened(Signs):
    """Moves a matrix by its momentum's singular vectors: of parts these are others."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                moved = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                moved.mul_(group["decay"]).add_(parameter.grad)
                parameter.add_(_whitened(moved), alpha=-group["lr"])


def _whitened(moved: Tensor) -> Tensor:
    if moved.dim() != 2:
        return moved
    left, _, right = torch.linalg.svd(moved, full_matrices=False)
    return left @ right


class Counting(Signs):
    """Counts in itself, where no checkpoint sees it."""

    def __init__(self, groups: Any, decay: float) -> None:
        super().__init__(groups, decay)
        self.updates = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.updates += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(parameter.grad, alpha=-group["lr"] / self.updates)


class Fixed(Signs):
    """Remembers the learning rate that it was made with."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(parameter.grad, alpha=-self.defaults["decay"])


class Holding(Signs):
    """Holds on to the parameters that it was made with."""

    def __init__(self, groups: Any, decay: float) -> None:
        super().__init__(groups, decay)
        self.held = [(parameter, group) for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter, group in self.held:
            if parameter.grad is not None:
                parameter.add_(parameter.grad, alpha=-group["lr"])


def signs(groups: Any, decay: float = 0.9) -> Optimizer:
    return Signs(groups, decay)


def whitened(groups: Any, decay: float = 0.9) -> Optimizer:
    return Whitened(groups, decay)


def counting(groups: Any) -> Optimizer:
    return Counting(groups, 0.9)


def fixed(groups: Any) -> Optimizer:
    return Fixed(groups, 0.9)


def holding(groups: Any) -> Optimizer:
    return Holding(groups, 0.9)


def adamw(groups: Any, beta: float = 0.9) -> Optimizer:
    return torch.optim.AdamW(groups, betas=(beta, 0.999), fused=True)


def nadam(groups: Any) -> Optimizer:
    return torch.optim.NAdam(groups)


def adagrad(groups: Any) -> Optimizer:
    return torch.optim.Adagrad(groups)


def nothing(groups: Any) -> str:
    return "an optimizer"


def half(groups: Any) -> Optimizer:
    return torch.optim.SGD(groups[0]["params"], lr=0.1)


def triangle(step: int, total_steps: int, top: float = 0.5) -> float:
    """Up to the top, and down again."""
    middle = top * total_steps
    return step / middle if step <= middle else (total_steps - step) / (total_steps - middle)


def falling_below(step: int, total_steps: int) -> float:
    return 1 - step / (total_steps - 2)


_asked: list[int] = []


def remembering(step: int, total_steps: int) -> float:
    _asked.append(step)
    return 1 / len(_asked)
