"""Optimizers: the same torch classes and parameter groups under every strategy, so that the numerics are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from orchestrator.errors import SpecError
from orchestrator.own_code import made_by
from orchestrator.spec.training import OptimizerSpec

_MOMENTS: dict[str, tuple[str, ...]] = {
    "adamw": ("exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
    "lion": ("exp_avg",),
    "adafactor": ("row_var", "col_var", "variance"),
}
"""Kind of optimizer -> the tensors it may keep for a parameter, by torch's names."""

_ELEMENTWISE = frozenset({"adamw", "sgd", "lion"})
"""Those that treat each element by itself, so that a flat shard of a parameter can be updated alone."""

_COUNTS = {"adamw": "tensor", "sgd": "none", "lion": "none", "adafactor": "tensor"}
"""How they count a parameter's updates."""

OWN_FIELD = "training.optimizer.factory"
"""For errors of a person's own."""


def moments_allowed(spec: OptimizerSpec) -> tuple[str, ...]:
    """Names of the tensors that the optimizer may keep for a parameter."""
    return _MOMENTS[spec.kind] if spec.tried is None else spec.tried.moments


def refuse_shards(spec: OptimizerSpec, strategy: str, verb: str) -> None:
    """Raises SpecError where an optimizer of ours needs whole parameters; check_optimizers has looked at others."""
    if spec.tried is None and spec.kind not in _ELEMENTWISE:
        raise SpecError(
            f"training.optimizer: {spec.kind} needs whole parameters and strategy {strategy} {verb} them; use strategy ddp"
        )


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2)."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        loss = None if closure is None else closure()
        skip = _skip(self)
        for group in self.param_groups:
            interpolation, decay_rate = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                value, gradient, momentum = (
                    local(part) for part in (parameter, parameter.grad, state["exp_avg"])
                )
                direction = momentum.lerp(gradient, 1 - interpolation).sign_()
                moved = (value * (1 - group["lr"] * group["weight_decay"])).add_(
                    direction, alpha=-group["lr"]
                )
                followed = momentum.lerp(gradient, 1 - decay_rate)
                value.copy_(moved if skip is None else torch.where(skip, value, moved))
                momentum.copy_(followed if skip is None else torch.where(skip, momentum, followed))
        return loss


class Sgd(torch.optim.SGD):
    """torch's fused SGD, on shards too, with momentum that begins at zero: torch's own leaves it without numbers where
    the first update is skipped.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        loss = None if closure is None else closure()
        skip = _skip(self)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            momenta = []
            if group["momentum"]:
                for parameter in parameters:
                    state = self.state[parameter]
                    if state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(parameter)
                    momenta.append(local(state["momentum_buffer"]))
            if parameters:
                torch._fused_sgd_(
                    [local(p) for p in parameters],
                    [local(p.grad) for p in parameters],
                    momenta,
                    weight_decay=group["weight_decay"],
                    momentum=group["momentum"],
                    lr=group["lr"],
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                    is_first_step=False,
                    found_inf=None if skip is None else skip.to(local(parameters[0]).device, torch.float32),
                )
        return loss


class Adafactor(torch.optim.Adafactor):
    """torch's, which asks the device for norms as it goes: one question more costs nothing."""

    def step(self, closure: Any = None) -> Any:
        """One update of all parameters that have a gradient."""
        if (skip := _skip(self)) is not None:
            if bool(skip):
                return None
            asked: Any = self
            asked.found_inf = None  # torch's own refuses to be told
        return super().step(closure)


def update(optimizer: torch.optim.Optimizer, skip: Tensor, *, own: bool = False) -> None:
    """One step of the optimizer, which changes nothing where ``skip``, () bool on the device, is true.

    Args:
        own: it is a person's own, and nobody knows whether it looks: so the device is asked, and waited for.
    """
    if own:
        if not bool(skip):
            optimizer.step()
        return
    told: Any = optimizer
    told.found_inf = skip.float()  # where torch's fused optimizers look for it, and so do ours
    optimizer.step()


def _skip(optimizer: torch.optim.Optimizer) -> Tensor | None:
    found_inf: Tensor | None = getattr(optimizer, "found_inf", None)
    return None if found_inf is None else found_inf.bool()


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds, as a plain tensor on the same storage."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], spec: OptimizerSpec) -> list[dict[str, Any]]:
    """The trainable parameters in two groups, with and without weight decay; an empty group is left out.

    Without: those that match a pattern of ``no_decay`` and all with fewer than two dimensions. Each group has
    ``names`` beside ``params``, in the same order.
    """
    groups: list[dict[str, Any]] = [
        {"params": [], "names": [], "weight_decay": decay, "lr": spec.learning_rate}
        for decay in (spec.weight_decay, 0.0)
    ]
    for name, parameter in named:
        if parameter.requires_grad:
            # DeepSpeed hides the shape of what it has partitioned
            dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
            plain = dimensions < 2 or any(fnmatchcase(name, pattern) for pattern in spec.no_decay)
            groups[plain]["params"].append(parameter)
            groups[plain]["names"].append(name)
    return [group for group in groups if group["params"]]


def build_optimizer(
    groups: list[dict[str, Any]], spec: OptimizerSpec, device: torch.device
) -> torch.optim.Optimizer:
    """The torch optimizer that ``spec`` names over ``groups``: fused where the device has it.

    Raises SpecError where one of a person's own can't be made.
    """
    if spec.factory is not None:
        own: torch.optim.Optimizer = made_by(spec.factory, OWN_FIELD, dict(spec.config), groups)
        return own
    if spec.kind == "adamw":
        fused = device.type in ("cuda", "cpu")
        return torch.optim.AdamW(groups, betas=spec.betas, eps=spec.epsilon, fused=fused)
    if spec.kind == "sgd":
        return Sgd(groups, momentum=spec.momentum)
    if spec.kind == "lion":
        return Lion(groups, betas=spec.betas)
    return Adafactor(groups, lr=spec.learning_rate)


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Put ``learning_rate`` into every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def moments_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """The tensors that the optimizer keeps for ``parameter``, by torch's names; the step count is not one."""
    state: Mapping[str, Any] = optimizer.state.get(parameter, {})
    return {kind: value for kind, value in state.items() if isinstance(value, Tensor) and kind != "step"}


def restore_moments(
    optimizer: torch.optim.Optimizer,
    parameter: Tensor,
    moments: Mapping[str, Tensor],
    steps: int,
    spec: OptimizerSpec,
) -> None:
    """Put saved moments of ``parameter`` in place, as if ``steps`` updates had been made."""
    state: dict[str, Any] = dict(moments)
    counts = spec.tried.counts if spec.tried is not None else _COUNTS[spec.kind]
    if counts == "number":
        state["step"] = steps
    elif counts == "tensor":
        # torch keeps the count where the update runs: beside the parameter when fused, else on the CPU
        beside = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
        state["step"] = torch.tensor(float(steps), device=parameter.device if beside else "cpu")
    optimizer.state[parameter] = state
