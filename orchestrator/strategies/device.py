"""How this process computes on its device: number formats of fp32 products, choice of kernels, determinism."""

from __future__ import annotations

import os

import torch

from orchestrator.spec.job import TrainingSpec


def set_up(training: TrainingSpec, device: torch.device) -> None:
    """Do as the job's section says, for the whole process."""
    torch.use_deterministic_algorithms(training.deterministic)
    if training.deterministic:  # cuBLAS reads it at its first call
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device.type != "cuda":
        return
    # convolutions would take TF32 by themselves, matrix products would not
    torch.set_float32_matmul_precision("high" if training.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = training.tf32
    # shapes are the same from step to step, so the fastest kernel is worth looking for
    torch.backends.cudnn.benchmark = not training.deterministic
