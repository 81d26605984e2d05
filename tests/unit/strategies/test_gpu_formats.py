"""Formats of a GPU's autocast on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F

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
