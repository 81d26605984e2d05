"""What the loop does between ranks: it divides by what all of them hold, logs means over all, and seeds each by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks_fixture import Pools, pools
from torch import Tensor, nn

from orchestrator import loop
from orchestrator.models.base import Batch, Sums
from orchestrator.models.objectives.common import OnePhase
from orchestrator.testing import RecordingEngine, RecordingSurroundings, small_plan, steps_of

__all__ = ["pools"]

X = [1.0, 2.0, 4.0, 8.0]
"""A global batch; the first half is rank 0's."""
UNITS = [1, 2, 3, 4]


class AddsUp(OnePhase):
    """The sum of ``x`` over as many units as the batch says."""

    def __init__(self, units_per_sample: int | None) -> None:
        self.units_per_sample = units_per_sample
        self.seeds: list[int] = []

    def units(self, phase: str, batch: Batch) -> Tensor:
        return batch["units"].sum()

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        self.seeds.append(torch.initial_seed())
        return Sums(batch["x"].sum(), batch["units"].sum(), {})

    def evaluate(self, modules: Mapping[str, nn.Module], batch: Batch) -> Mapping[str, Any]:
        return {"loss": (batch["x"].sum(), torch.tensor(len(batch["x"])))}


def trained(
    units_per_sample: int | None, weight: list[float] | None
) -> tuple[list[float], Any, Any, list[int]]:
    """Of two steps: what this rank's backwards were given, the losses it logged, its last evaluation, its seeds."""
    plan = small_plan(2, training={"max_steps": 2, "global_batch_size": 4, "seed": 3}, evaluate_every=2)
    batch = {"x": torch.tensor(X), "units": torch.tensor(UNITS)}
    if weight is not None:
        batch["weight"] = torch.tensor(weight)
    # the second rank's set is shorter: its last batch is padding in real life, and less in this one
    evaluation = [
        {"x": torch.tensor([1.0, 2.0])},
        {"x": torch.tensor([3.0] if dist.get_rank() else [3.0, 4.0])},
    ]
    objective, around = AddsUp(units_per_sample), RecordingSurroundings(evaluation=evaluation)
    engine = RecordingEngine(calls=around.calls)
    outcome = loop.train(plan, engine, objective, steps_of([batch, batch], plan), around, 0)
    given = [call[2] for call in around.calls if call[0] == "backward"]
    return given, around.metric("train/loss"), outcome.metrics, objective.seeds


@pytest.mark.parametrize(
    ("units_per_sample", "weight", "count"),
    [(2, None, 2 * 4), (None, None, sum(UNITS)), (2, [1.0, 1.0, 1.0, 0.0], sum(UNITS))],
    ids=["as many in each sample", "as the batch says", "padded"],
)
def test_ranks_share_one_count(
    pools: Pools, units_per_sample: int | None, weight: list[float] | None, count: int
) -> None:
    answers = pools.run(2, trained, units_per_sample, weight)
    for rank, (given, logged, evaluated, seeds) in enumerate(answers):
        assert given == pytest.approx([sum(X[2 * rank : 2 * rank + 2]) / count] * 2)
        assert logged == pytest.approx(dict.fromkeys((1, 2), sum(X) / sum(UNITS)))
        assert evaluated["val/loss"] == pytest.approx((1 + 2 + 3 + 4 + 1 + 2 + 3) / 7)
        assert seeds == [(3 * 1_000_003 + step) * 65_537 + rank for step in (1, 2)]
