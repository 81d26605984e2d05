"""How this process computes on its device: number formats of fp32 products, choice of kernels, determinism."""

from __future__ import annotations

import contextlib
import ctypes
import os

import torch

from orchestrator.spec.training import TrainingSpec


def set_up(training: TrainingSpec, device: torch.device) -> None:
    """Do as the job's section says, for the whole process."""
    torch.use_deterministic_algorithms(training.deterministic)
    if training.deterministic:  # cuBLAS reads it at its first call
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device.type == "cpu":
        _keep_one_arena()
        return
    # convolutions would take TF32 by themselves, matrix products would not
    torch.set_float32_matmul_precision("high" if training.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = training.tf32
    # shapes are the same from step to step, so the fastest kernel is worth looking for
    torch.backends.cudnn.benchmark = not training.deterministic


_M_ARENA_MAX = -8
"""By malloc.h of glibc."""


def _keep_one_arena() -> None:
    """Let threads share the C library's memory: each would keep what its largest tensors took, some tens of MB, and
    ``malloc_trim`` gives back the end of the first arena only.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
