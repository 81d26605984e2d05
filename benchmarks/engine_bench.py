"""The model, plan and batches that the engine benchmarks share: a stack of residual blocks, importable by ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orchestrator.models.base import Modules, Sums
from orchestrator.planning.plan import MemoryEstimate, Plan, ResolvedJob

WIDTH, DEPTH, BATCH = 256, 6, 32


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


class Objective:
    phases = ("model",)
    units_per_sample = 1

    def trains(self, phase: str) -> str:
        return phase

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Mapping[str, Tensor]) -> Sums:
        loss = F.cross_entropy(modules["model"](batch["x"]), batch["y"], reduction="sum")
        return Sums(loss, torch.tensor(len(batch["y"])), {})


def model_and_objective() -> tuple[Modules, Any]:
    torch.manual_seed(0)
    return {"model": Stack()}, Objective()


def batches(count: int) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield {
            "x": torch.randn(BATCH, WIDTH, generator=generator),
            "y": torch.randint(0, 10, (BATCH,), generator=generator),
        }


def plan_for(
    strategy: Mapping[str, Any],
    world_size: int,
    *,
    parameters: int,
    precision: str = "fp32",
    accumulation: int = 1,
    batch: int = BATCH,
) -> Plan:
    job = ResolvedJob.model_validate(
        {
            "name": "bench",
            "model": {"family": "mlp", "in_features": WIDTH, "outputs": 10},
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "digits"}},
            "training": {
                "max_steps": 1000,
                "global_batch_size": batch * accumulation * world_size,
                "precision": precision,
                "optimizer": {"learning_rate": 1e-3},
            },
            "strategy": strategy,
            "scaling": {"workers": world_size},
        }
    )
    return Plan(
        version="0", run_id="bench", job=job, base_dir="/", storage="/nowhere", cache="/nowhere", tracking_uri="",
        world_size=world_size, micro_batch_size=batch, accumulation_steps=accumulation, total_steps=1000, train_samples=0,
        eval_samples=0, evaluate_every=0, sample_every=0, checkpoint_every=1, parameters=parameters,
        trainable_parameters=parameters, flops_per_sample=0,
        memory=MemoryEstimate(parameters=0, gradients=0, optimizer=0, activations=0),
    )  # fmt: skip
