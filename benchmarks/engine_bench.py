"""The model, plan and batches that the engine benchmarks share: a stack of residual blocks, importable by ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.models.base import Modules, Sums
from orchestrator.models.objectives.common import OnePhase
from orchestrator.planning.plan import Plan
from orchestrator.testing import small_plan

WIDTH, DEPTH, BATCH, CLIP = 256, 6, 32, 1.0


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Stack(nn.Module):
    blocks = (Block,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class Objective(OnePhase):
    units_per_sample = 1

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Mapping[str, Tensor]) -> Sums:
        loss = F.cross_entropy(modules["model"](batch["x"]), batch["y"], reduction="sum")
        return Sums(loss, torch.tensor(len(batch["y"])), {})


def model_and_objective() -> tuple[Modules, Any]:
    torch.manual_seed(0)
    return {"model": Stack()}, Objective()


def batches(count: int, size: int = BATCH) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield {
            "x": torch.randn(size, WIDTH, generator=generator),
            "y": torch.randint(0, 10, (size,), generator=generator),
        }


def plan_for(
    strategy: Mapping[str, Any],
    world_size: int,
    *,
    steps: int,
    parameters: int,
    precision: str = "fp32",
    accumulation: int = 1,
    batch: int = BATCH,
) -> Plan:
    """Logs its first and last step only."""
    return small_plan(
        world_size,
        strategy=strategy,
        training={
            "max_steps": steps,
            "global_batch_size": batch * accumulation * world_size,
            "precision": precision,
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"kind": "constant"},
            "clip_grad_norm": CLIP,
            "log_every": steps,
        },
        micro_batch_size=batch,
        parameters=parameters,
    )
