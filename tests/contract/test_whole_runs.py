"""Every family, under every strategy, in every precision: the loop with samples, evaluation and saves, and again from a save.

All of it is ``make whole-runs``; a slice of it is part of the default tests.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from engine_toys import Run
from family_cases import IDS
from family_runs import family_plan, train_family
from ranks_fixture import Pools, pools
from test_families import STRATEGIES

__all__ = ["pools"]

STEPS, SAVED = 4, 2
SLICE = {
    ("autoencoder-variational", "zero2"),
    ("autoencoder", "fsdp"),
    ("gan", "fsdp"),
    ("gan-wasserstein", "zero1"),
    ("lstm-forecasting", "zero3"),
    ("lstm-forecasting", "fsdp"),
    ("bert-mlm", "ddp"),
    ("gpt", "zero3"),
    ("transformer-lengths", "fsdp"),
    ("cnn-images", "fsdp"),
    ("mlp-categories", "zero2"),
}
CASES = [
    pytest.param(
        name,
        strategy,
        precision,
        marks=() if precision == "bf16" and (name, strategy) in SLICE else pytest.mark.slow,
    )
    for name in IDS
    for strategy in STRATEGIES
    for precision in ("fp32", "bf16")
]


@pytest.mark.parametrize(("name", "strategy", "precision"), CASES)
def test_a_run_with_all_that_happens_between_steps_is_the_same_from_a_save_on(
    pools: Pools, tmp_path: Path, name: str, strategy: str, precision: str
) -> None:
    optimizer = {"kind": "adamw", "learning_rate": 0.01}
    plan = family_plan(2, STRATEGIES[strategy], optimizer, precision=precision)
    whole: list[Run] = pools.run(2, train_family, plan, name, STEPS, str(tmp_path))
    resumed: list[Run] = pools.run(2, train_family, plan, name, STEPS, str(tmp_path), SAVED)
    for before, after in zip(whole, resumed, strict=True):
        assert all(map(math.isfinite, before.losses))
        assert after.losses == before.losses[-len(after.losses) :]
        assert len(after.losses) * STEPS == len(before.losses) * (STEPS - SAVED)
        for one, other in zip(before.ranges, after.ranges, strict=True):
            assert one[:4] == other[:4] and torch.equal(one[4], other[4]), one[:2]
