"""Number formats of forward and backward, and loss scaling for fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

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


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Scales losses so that fp16 gradients don't vanish; does nothing at other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
