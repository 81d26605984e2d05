"""Steps from global batches that are at hand, without a data source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist

from orchestrator.data.reading.training import StepBatch
from orchestrator.models.base import Batch
from orchestrator.planning.plan import Plan


def steps_of(
    batches: Iterable[Batch],
    plan: Plan,
    *,
    rank: int | None = None,
    device: str | torch.device = "cpu",
) -> Iterator[StepBatch]:
    """One step from each global batch: the rank's share of it, in the plan's micro-batches.

    Args:
        batches: named tensors (global batch, ...). Where ``weight`` is among them, samples of weight 0 are padding.
        plan: says how many ranks share a batch, and how large a micro-batch is.
        rank: whose share. Default: this process's in torch.distributed, or 0.
        device: where the micro-batches go.

    Raises:
        ValueError: a batch has not as many samples as the plan's global batch.

    """
    if rank is None:
        rank = dist.get_rank() if dist.is_initialized() else 0
    size = plan.job.training.global_batch_size
    begin, end = rank * size // plan.world_size, (rank + 1) * size // plan.world_size
    for batch in batches:
        if wrong := {name: len(tensor) for name, tensor in batch.items() if len(tensor) != size}:
            raise ValueError(f"a global batch has {size} samples in this plan; this one has {wrong}")
        yield StepBatch(
            micros=[
                {
                    name: tensor[at : min(at + plan.micro_batch_size, end)].to(device)
                    for name, tensor in batch.items()
                }
                for at in range(begin, end, plan.micro_batch_size)
            ],
            samples=int((batch["weight"] > 0).sum()) if "weight" in batch else size,
            padded="weight" in batch,
            epoch=0.0,
            tokens=batch["tokens"].numel() if "tokens" in batch else 0,
        )
