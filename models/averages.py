"""Exponential moving average of a module's parameters, kept in a module of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def as_average(module: nn.Module, source: nn.Module, of: str) -> nn.Module:
    """Make ``module``, of the same class as ``source``, its average, to be moved by ``move_average``.

    Args:
        of: the name that ``source`` has in its family.
    """
    module.load_state_dict(source.state_dict())
    average: Any = module.requires_grad_(False)
    average.average_of = of
    average.register_buffer("averaged_steps", torch.zeros(()))
    return module


def share_of_step(steps: Tensor, decay: float) -> Tensor:
    """How far an average goes towards its source, after () so many steps. The decay grows to ``decay`` over the first
    steps, so that the initial weights are soon forgotten.
    """
    return 1 - torch.clamp((1 + steps) / (10 + steps), max=decay)


@torch.no_grad()
def move_average(average: nn.Module, source: nn.Module, decay: float) -> None:
    """One step of the average towards its source.

    Both modules have the same parameters in the same order and layout; a wrapped source (DDP) has too.
    """
    steps = average.get_buffer("averaged_steps")
    share = share_of_step(steps, decay)
    for mean, new in zip(average.parameters(), source.parameters(), strict=True):
        _local(mean).lerp_(_local(new).to(mean.dtype), share)
    steps.add_(1)


def _local(tensor: Any) -> Tensor:
    """The part of a sharded tensor that is on this rank, or the whole tensor."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local
