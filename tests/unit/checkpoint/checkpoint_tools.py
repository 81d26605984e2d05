"""State to save."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from orchestrator.state import StateRange


def tensors(seed: int, rows: int = 7) -> dict[tuple[str, str], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made: dict[tuple[str, str], Tensor] = {
        (kind, f"model/layer.{index}"): torch.randn(rows, 5, generator=generator)
        for kind in ("parameter", "exp_avg")
        for index in range(7)
    }
    made["buffer", "model/count"] = torch.tensor(seed, dtype=torch.int64)
    made["buffer", "model/mask"] = torch.rand(9, generator=generator) > 0.5
    made["parameter", "model/half"] = torch.randn(3, generator=generator).bfloat16()
    return made


def ranges(whole: dict[tuple[str, str], Tensor], rank: int = 0, world_size: int = 1) -> Iterator[StateRange]:
    for (kind, name), tensor in whole.items():
        count = tensor.numel()
        start, stop = count * rank // world_size, count * (rank + 1) // world_size
        if start < stop:
            yield StateRange(
                kind, name, tuple(tensor.shape), start, tensor.reshape(-1)[start:stop], kind != "buffer"
            )
