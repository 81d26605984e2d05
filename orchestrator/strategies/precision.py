"""Number formats of forward and backward, and loss scaling for fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import SpecError

COMPUTE_DTYPES: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""training.precision -> the format that matrix products are computed in."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raise SpecError where the device can't compute in ``precision``."""
    if precision == "fp16" and device.type != "cuda":
        raise SpecError(
            f"training.precision: fp16 needs a GPU and this worker computes on {device.type}; use bf16 or fp32"
        )


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The context around forward and loss."""
    if precision == "fp32":
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype=COMPUTE_DTYPES[precision])
    return context


def cast_norm_inputs(module: nn.Module, precision: str, device: torch.device) -> None:
    """Give normalizations their input in the format that their parameters have during the forward.

    For engines that keep parameters in the compute format. On a GPU autocast brings both to fp32; on a CPU it does
    not touch normalizations, and their kernels refuse fp32 input beside bf16 parameters.
    """
    dtype = COMPUTE_DTYPES[precision]
    if dtype == torch.float32 or device.type != "cpu":
        return

    def cast(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(t.to(dtype) if isinstance(t, Tensor) and t.dtype == torch.float32 else t for t in inputs)

    for part in module.modules():
        if isinstance(part, _NORMS):
            part.register_forward_pre_hook(cast)


_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


class LossScale:
    """A factor on the loss so that fp16 gradients don't vanish; 1 at other precisions.

    Halves where a gradient overflows, doubles after ``GROWTH_INTERVAL`` good steps (Micikevicius et al. 2018,
    arXiv:1710.03740, section 3.2). Whether a gradient overflowed is seen in its global norm, on every rank alike.
    """

    INITIAL = 65536.0
    GROWTH_INTERVAL = 2000

    def __init__(self, precision: str, device: torch.device) -> None:
        """
        Args:
            precision: the job's; the factor changes with ``fp16`` only.
            device: where factor and count are kept: nothing waits for them but ``scalars`` of an engine.

        """
        self.is_dynamic = precision == "fp16"
        self.factor = torch.full((), self.INITIAL if self.is_dynamic else 1.0, device=device)
        """() float32."""
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)
        """() updates since the factor has changed."""

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss times the factor."""
        return loss * self.factor if self.is_dynamic else loss

    @property
    def is_least(self) -> Tensor:
        """() bool: it can't become smaller."""
        return self.factor <= 1.0

    def update(self, finite: Tensor) -> None:
        """Adapt to whether the last gradient's norm was finite, () bool."""
        if not self.is_dynamic:
            return
        good_steps = (self.good_steps + 1) * finite
        is_grown = good_steps == self.GROWTH_INTERVAL
        kept = torch.where(is_grown, self.factor * 2, self.factor)
        self.factor.copy_(torch.where(finite, kept, (self.factor / 2).clamp(min=1.0)))
        self.good_steps.copy_(good_steps * ~is_grown)
