"""Formats of a GPU's autocast on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from orchestrator.strategies.gpu_formats import autocast_as_on_gpus


def test_normalization_is_in_fp32_under_autocast_only() -> None:
    x = torch.ones(2, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert F.layer_norm(x, (4,)).dtype == torch.bfloat16
        with autocast_as_on_gpus():
            assert F.layer_norm(x, (4,)).dtype == torch.float32
            assert (x @ x.T).dtype == torch.bfloat16
    with autocast_as_on_gpus():
        assert F.layer_norm(x, (4,)).dtype == torch.bfloat16


def test_what_a_backward_recomputes_is_of_the_same_formats() -> None:
    norm, x = nn.LayerNorm(4), torch.randn(2, 4, requires_grad=True)
    with autocast_as_on_gpus(), torch.autocast("cpu", dtype=torch.bfloat16):
        checkpoint(lambda x: norm(x.bfloat16()), x, use_reentrant=False).sum().backward()
    assert x.grad is not None
